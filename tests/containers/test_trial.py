"""The trial of compose.yaml by its own files, node and Orthanc as processes: what goes in comes out in both places."""

from __future__ import annotations

import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from medattn_edge.newer_python import tomllib  # noqa: E402
from tests.containers.test_files import CONTAINERS  # noqa: E402
from tests.support.dicom_peers import needs_orthanc  # noqa: E402
from tests.support.node_files import make_artifact  # noqa: E402
from tests.support.orthanc_peer import Orthanc  # noqa: E402
from tests.support.running_node import QUICK, RunningNode, Scan, command, tiny_model, toml  # noqa: E402


def configure(folder: Path, *, port: int = 11112, archive: int = 4242) -> dict[str, Any]:
    """The trial's configuration of a node, with its containers' folders and names as they are on this machine."""
    text = (CONTAINERS / "trial" / "node.toml").read_text(encoding="utf-8")
    for name in ("/data", "/incoming", "/results"):
        (folder / name[1:]).mkdir(parents=True, exist_ok=True)
        text = text.replace(f'"{name}', f'"{folder}{name}')
    sections = tomllib.loads(text.replace('"/models/lungs.onnx"', json.dumps(str(tiny_model()))))
    sections["receive"] |= {"host": "127.0.0.1", "port": port, "addresses": ["127.0.0.0/8"]}
    sections["destination"][1] |= {"host": "127.0.0.1", "port": archive}
    return sections


def test_the_trials_configuration_is_one_that_a_node_takes(tmp_path: Path) -> None:
    """As it stands, but for the folders: Docker's networks and the archive's name too."""
    text = (CONTAINERS / "trial" / "node.toml").read_text(encoding="utf-8")
    for name in ("incoming", "results", "models"):
        (tmp_path / name).mkdir()
    make_artifact(tmp_path / "models" / "lungs.onnx")
    (tmp_path / "node.toml").write_text(text.replace('"/', f'"{tmp_path}/'))
    done = command("node", "--config", tmp_path / "node.toml", "--dump-config")
    assert done.returncode == 0, done.stderr
    dumped = tomllib.loads(done.stdout)
    orthanc = json.loads((CONTAINERS / "trial" / "orthanc.json").read_text(encoding="utf-8"))
    title, host, port = orthanc["DicomModalities"]["node"]
    assert (title, port) == (dumped["receive"]["ae_title"], dumped["receive"]["port"])
    archive = dumped["destination"][1]
    assert (archive["ae_title"], archive["port"]) == (orthanc["DicomAet"], orthanc["DicomPort"])
    services = (CONTAINERS / "compose.yaml").read_text(encoding="utf-8")
    assert f"\n  {host}:\n" in services
    assert f"\n  {archive['host']}:\n" in services


class TrialOrthanc(Orthanc):
    """Orthanc with the trial's own settings, but for folders and ports."""

    def __init__(self, folder: Path, node_port: int) -> None:
        super().__init__(folder)
        own = json.loads((folder / "orthanc.json").read_text())
        trial = json.loads((CONTAINERS / "trial" / "orthanc.json").read_text(encoding="utf-8"))
        trial["DicomModalities"]["node"][1:] = ["127.0.0.1", node_port]
        kept = ("StorageDirectory", "IndexDirectory", "HttpPort", "DicomPort", "StableAge", "Plugins")
        settings = {**trial, **{key: own[key] for key in kept}, "RemoteAccessAllowed": False}
        (folder / "orthanc.json").write_text(json.dumps(settings))


@pytest.mark.slow
@needs_orthanc
def test_a_series_in_the_folder_and_one_from_orthanc_are_segmented_into_both(tmp_path: Path) -> None:
    node = RunningNode(tmp_path / "node", tiny_model())
    with TrialOrthanc(tmp_path / "orthanc", node.port) as orthanc:
        sections = configure(tmp_path, port=node.port, archive=orthanc.port)
        sections["node"]["log_file"] = str(node.log_file)
        node.config.write_text(toml({**sections, "limits": dict(QUICK), "status": {"port": node.status_port}}))
        with node:
            dropped, sent = Scan(tmp_path, 1), Scan(tmp_path, 2)
            shutil.copytree(dropped.write()[0].parent, tmp_path / "incoming" / "series")
            orthanc.send(orthanc.upload(sent.write()))
            for scan in (dropped, sent):

                def stored(study: str = scan.study) -> list[dict[str, Any]]:
                    return orthanc.find("Instance", StudyInstanceUID=study, Modality="SEG")

                [found] = node.wait(stored, "the segmentation in Orthanc")
                seg = pydicom.dcmread(BytesIO(orthanc.raw(f"/instances/{found['ID']}/file")))
                assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == scan.uid
            node.wait_until_done(2)
            assert command("node", "status", "--config", node.config, "--ready", "--json").returncode == 0
            assert len(list((tmp_path / "results").rglob("*seg*.dcm"))) == 2
            assert node.end() == 0
