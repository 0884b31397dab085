"""dcmtk and Orthanc: what they send comes back as a segmentation, beside its series, over TLS as well."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from tests.support.archive_peer import make_certificates  # noqa: E402
from tests.support.dicom_peers import AE_TITLE, Archive, dcmsend, dcmtk, needs_dcmtk, needs_orthanc, send, storescu  # noqa: E402
from tests.support.orthanc_peer import Orthanc, needs_dicomweb  # noqa: E402
from tests.support.running_node import COMMAND, RunningNode, Scan, command  # noqa: E402

pytestmark = pytest.mark.slow

TOOLS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("peers")


@pytest.fixture(scope="module")
def orthanc(folder: Path) -> Iterator[Orthanc]:
    with Orthanc(folder / "orthanc") as started:
        yield started


@pytest.fixture(scope="module")
def running(model: Path, orthanc: Orthanc, folder: Path) -> Iterator[RunningNode]:
    with RunningNode(folder / "node", model, {"destination": [orthanc.destination]}) as node:
        orthanc.knows(node.port)
        yield node


def stored_seg(orthanc: Orthanc, study: str) -> Any:
    """The only segmentation of a study, None before it is there."""
    found = orthanc.find("Instance", StudyInstanceUID=study, Modality="SEG")
    if not found:
        return None
    [seg] = found
    return pydicom.dcmread(BytesIO(orthanc.raw(f"/instances/{seg['ID']}/file")))


def decoded(seg: Any) -> dict[tuple[int, tuple[float, ...]], np.ndarray]:
    """(segment, position) -> frame: what a segmentation says, in whatever order."""
    frames = np.atleast_3d(seg.pixel_array.T).T
    [shared] = seg.SharedFunctionalGroupsSequence
    found = {}
    for frame, own in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        place = tuple(float(value) for value in own.PlanePositionSequence[0].ImagePositionPatient)
        [segment] = (own if "SegmentIdentificationSequence" in own else shared).SegmentIdentificationSequence
        found[int(segment.ReferencedSegmentNumber), place] = frame
    return found


@pytest.fixture(params=["storescu", "dcmsend", "orthanc"])
def sender(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@needs_dcmtk
@needs_orthanc
def test_what_a_peer_sends_is_found_as_a_segmentation_beside_its_series(sender, running, orthanc, folder, model):
    scan = Scan(folder, ["storescu", "dcmsend", "orthanc"].index(sender))
    files = scan.write()
    instances = orthanc.upload(files)  # the archive has the scan from elsewhere
    if sender == "orthanc":
        orthanc.send(instances)
    else:
        done = {"storescu": storescu, "dcmsend": dcmsend}[sender](running.port, files)
        assert done.returncode == 0, done.stderr
    seg = running.wait(lambda: stored_seg(orthanc, scan.study), "the segmentation in Orthanc")

    series = orthanc.find("Series", StudyInstanceUID=scan.study)
    assert sorted(one["MainDicomTags"]["Modality"] for one in series) == ["CT", "SEG"]
    assert seg.PatientID == pydicom.dcmread(files[0]).PatientID
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == scan.uid

    words = [*COMMAND, "infer", model, files[0].parent, "-o", folder / f"{sender}.dcm", "--threads", "1"]
    subprocess.run([str(word) for word in words], check=True, capture_output=True)
    ours, inferred = decoded(seg), decoded(pydicom.dcmread(folder / f"{sender}.dcm"))
    assert ours.keys() == inferred.keys()
    assert len(ours) > 1
    for place, frame in ours.items():
        np.testing.assert_array_equal(frame, inferred[place])

    seg.save_as(folder / "stored.dcm")
    done = subprocess.run([TOOLS / "dciodvfy", "-new", folder / "stored.dcm"], capture_output=True, text=True)
    assert "Segmentation" in done.stderr.splitlines()[0]
    assert done.stderr.splitlines()[1:] == []


@needs_dcmtk
@needs_orthanc
def test_it_answers_an_echo_and_refuses_whom_it_does_not_know(running, folder):
    files = Scan(folder, 3).write()
    before = running.status()["objects"]
    assert dcmtk("echoscu", "-aet", "SCANNER", "-aec", AE_TITLE, "127.0.0.1", running.port).returncode == 0
    for wrong in ({"calling": "STRANGER"}, {"called": "ELSEWHERE"}):
        done = storescu(running.port, files, **wrong)
        assert done.returncode != 0
        assert "Reject" in done.stderr
    reasons = [line["reason"] for line in running.events("rejected")]
    assert reasons[-2:] == ["calling_ae", "called_ae"]
    assert running.status()["objects"] == before


@needs_dicomweb
def test_segmentation_contours_report_and_maps_reach_orthanc_by_c_store_and_by_dicomweb(model, tmp_path):
    pytest.importorskip("dicomweb_client", reason="the extra dicomweb is not installed")
    with Orthanc(tmp_path / "one") as one, Orthanc(tmp_path / "two", dicomweb=True) as two:
        web = {"name": "web", "dicomweb": two.url}
        beside = ("rtstruct", "sr", "probabilities")
        lungs = {"name": "lungs", "artifact": model, "threads": 1, **dict.fromkeys(beside, True)}
        sections = {"destination": [one.destination, web], "model": [lungs]}
        with RunningNode(tmp_path / "node", model, sections) as node:
            checked = command("node", "check", "--config", node.config)
            assert "destination web: ok" in checked.stdout, checked.stdout
            scan = Scan(tmp_path, 5)
            assert send(node.port, scan.write()).statuses == [0] * 6
            node.wait_until_done(1)
            kept = {str(pydicom.dcmread(path).SOPInstanceUID): path for path in node.root.rglob("*.dcm")}
            uids = dict(node.rows("SELECT kind, sop_uid FROM outputs WHERE sop_uid != ''"))
            assert set(uids) == {"seg", *beside}
            for orthanc in (one, two):
                for kind, uid in uids.items():
                    [found] = orthanc.find("Instance", SOPInstanceUID=uid)
                    held = pydicom.dcmread(BytesIO(orthanc.raw(f"/instances/{found['ID']}/file")))
                    assert held == pydicom.dcmread(kept[uid]), kind
            assert "delivered" in {line["event"] for line in node.log() if line.get("destination") == "web"}


@needs_dicomweb
def test_what_orthanc_missed_while_it_was_down_comes_by_dicomweb_when_it_is_up(model, tmp_path):
    pytest.importorskip("dicomweb_client", reason="the extra dicomweb is not installed")
    orthanc = Orthanc(tmp_path / "orthanc", dicomweb=True)
    sections = {"destination": [{"name": "web", "dicomweb": orthanc.url}], "limits": {"retry_initial_s": 0.5}}
    with RunningNode(tmp_path / "node", model, sections) as node:
        scan = Scan(tmp_path, 6)
        assert send(node.port, scan.write()).statuses == [0] * 6
        failed = node.wait(lambda: node.events("delivery_failed"), "a failed delivery")
        assert failed[0]["reason"] == "no_connection"
        with orthanc:
            node.wait_until_done(1)
            assert len(orthanc.find("Instance", StudyInstanceUID=scan.study, Modality="SEG")) == 1


@needs_dcmtk
@needs_orthanc
def test_storescp_of_dcmtk_gets_the_segmentation_as_a_file(model, tmp_path):
    archive = Archive()  # for its port and its section only
    (tmp_path / "stored").mkdir()
    with RunningNode(tmp_path / "node", model, {"destination": [archive.destination]}) as node:
        words = ["storescp", "-od", tmp_path / "stored", "-aet", "PACS", archive.port]
        peer = subprocess.Popen([str(word) for word in words])
        try:
            assert send(node.port, Scan(tmp_path, 4).write()).statuses == [0] * 6
            node.wait_until_done(1)
            [path] = (tmp_path / "stored").iterdir()
            [(uid,)] = node.rows("SELECT sop_uid FROM outputs WHERE kind = 'seg'")
            assert pydicom.dcmread(path).SOPInstanceUID == uid
        finally:
            peer.kill()
            peer.wait()


@needs_dcmtk
@needs_orthanc
def test_tls_in_and_tls_out_with_certificates_of_both_sides(model, tmp_path):
    made = make_certificates(tmp_path)
    of_orthanc = {"certificate": made.archive, "key": made.archive_key, "ca": made.ca}
    with Orthanc(tmp_path / "orthanc", of_orthanc) as orthanc:
        secure = {**orthanc.destination, "tls": True, "ca": made.ca, "certificate": made.client, "key": made.client_key}
        node = RunningNode(tmp_path / "node", model, {"destination": [secure]})
        node.configure(
            tls={
                "port": node.tls_port,
                "certificate": made.client,
                "key": made.client_key,
                "clients_ca": made.ca,
            }
        )
        with node:
            files = Scan(tmp_path, 5).write()
            done = storescu(node.tls_port, files, "+tls", made.archive_key, made.archive, "+cf", made.ca)
            assert done.returncode == 0, done.stderr
            node.wait(lambda: stored_seg(orthanc, Scan(tmp_path, 5).study), "the segmentation by TLS")
            # Orthanc, as a sender with its own certificate.
            orthanc.knows(node.tls_port)
            orthanc.send(orthanc.upload(Scan(tmp_path, 6).write()))
            node.wait(lambda: stored_seg(orthanc, Scan(tmp_path, 6).study), "the segmentation of Orthanc's series")
            refuses_without_a_certificate(node, made, files)
            # What does not speak TLS reaches nobody: beside TLS there is no plain listener.
            assert storescu(node.tls_port, files).returncode != 0
            assert storescu(node.port, files).returncode != 0
            assert node.status()["objects"] == 12


def refuses_without_a_certificate(node: RunningNode, made: Any, files: list[Path]) -> None:
    """Encrypted, and by somebody unknown: dcmtk without its certificate, and Python with none."""
    before = len(node.events("rejected"))
    assert storescu(node.tls_port, files, "+tla", "+cf", made.ca).returncode != 0
    context = ssl.create_default_context(cafile=str(made.ca))
    with (
        socket.create_connection(("127.0.0.1", node.tls_port), 10) as plain,
        pytest.raises(ssl.SSLError),
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        secure.recv(1)  # with TLS 1.3 the handshake is over before the listener looks at the certificate
    node.wait(lambda: len(node.events("rejected")) == before + 2, "two rejections")
    assert {line["reason"] for line in node.events("rejected")[before:]} == {"no_tls"}


def committing(scu_or_orthanc: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The sections of a node that promises one peer to keep things."""
    return {"storage_commitment": {"enabled": True, **more}, "commitment_peer": [scu_or_orthanc]}


def report_of(orthanc: Orthanc, node: RunningNode, asked: Any) -> Any:
    """What Orthanc made of a request for storage commitment, once it has its answer."""

    def done() -> Any:
        found = orthanc.rest(f"/storage-commitment/{asked['ID']}")
        return None if found["Status"] == "Pending" else found

    return node.wait(done, "the answer to storage commitment in Orthanc")


@needs_orthanc
def test_orthanc_asks_for_storage_commitment_and_is_told_what_the_node_keeps(model, folder, orthanc):
    peer = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc.port}
    with RunningNode(folder / "committing", model, {"destination": [orthanc.destination], **committing(peer)}) as node:
        orthanc.knows(node.port)
        scan = Scan(folder, 11)
        instances = orthanc.upload(scan.write())
        # Asked before it was sent: nothing of it is here.
        early = report_of(orthanc, node, orthanc.commit(instances))
        assert (early["Status"], len(early["Success"]), len(early["Failures"])) == ("Failure", 0, 6)
        assert {one["FailureReason"] for one in early["Failures"]} == {0x0112}
        orthanc.send(instances)
        kept = report_of(orthanc, node, orthanc.commit(instances))
        assert (kept["Status"], kept["Failures"]) == ("Success", [])
        assert {one["SOPInstanceUID"] for one in kept["Success"]} == scan.instances
        # Orthanc has its answer a moment before the node has that on record.
        node.wait(lambda: node.status()["commitments"] == {"waiting": 0, "answered": 2, "dead": 0}, "both on record")
        assert node.status()["committed"] == 6
        said = command("node", "status", "--config", node.config).stdout
        assert "storage commitment: 6 objects have to stay, 2 requests answered, 0 waiting, 0 given up" in said
        assert "medattn_edge_committed_objects 6\n" in node.get("/metrics")[1].decode()
        done = command("node", "check", "--config", node.config)
        assert "commitment_peer ORTHANC: ok" in done.stdout, done.stdout + done.stderr
        assert "stays for at least 30 days" in done.stdout

        # One file that is not what was received: it alone is not committed.
        node.wait_until_done(1)
        file = sorted((node.root / "spool").rglob("*.dcm"))[0]
        file.write_bytes(file.read_bytes()[:-1] + b"\7")
        partly = report_of(orthanc, node, orthanc.commit(instances))
        assert (len(partly["Success"]), [one["FailureReason"] for one in partly["Failures"]]) == (5, [0x0110])


@pytest.mark.slow
def test_a_request_that_was_taken_is_answered_after_kill_9_and_once(model, folder):
    from tests.support.commitment_peer import CT, CommitmentScu, information

    with CommitmentScu() as scu:
        node = RunningNode(folder / "killed", model, {"destination": [Archive().destination], **committing(scu.peer)})
        with node:
            scan = Scan(folder, 12)
            assert send(node.port, scan.write()).statuses == [0] * 6
            scu.down()
            asked = information("2.25.4711", [(CT, uid) for uid in scan.instances])
            assert scu.ask(node.port, asked) == 0x0000
            node.wait(lambda: node.events("commitment_failed"), "an answer that nobody took")
            node.kill()
            scu.up()
            node.start(ready=False)
            node.wait(lambda: scu.answers, "the answer after the restart")
            node.wait(lambda: node.status().get("commitments", {}).get("answered"), "the answer on record")
            assert [(one.transaction, one.event, one.committed) for one in scu.answers] == [
                ("2.25.4711", 1, scan.instances)
            ]
            assert node.status()["commitments"] == {"waiting": 0, "answered": 1, "dead": 0}


@pytest.mark.slow
def test_the_answer_to_storage_commitment_goes_by_tls(model, tmp_path):
    from tests.support.commitment_peer import CT, CommitmentScu, information

    made = make_certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(made.ca))
    context.load_cert_chain(made.archive, made.archive_key)
    context.verify_mode = ssl.CERT_REQUIRED
    with CommitmentScu(tls=context) as scu:
        secure = {**scu.peer, "tls": True, "ca": made.ca, "certificate": made.client, "key": made.client_key}
        sections = {"destination": [Archive().destination], **committing(secure)}
        with RunningNode(tmp_path / "node", model, sections) as node:
            assert scu.ask(node.port, information("2.25.1", [(CT, "1.2.3")])) == 0x0000
            [answer] = node.wait(lambda: scu.answers, "the answer by TLS")
            assert answer.failed == {"1.2.3": 0x0112}
