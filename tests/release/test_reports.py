"""A release holds a report of its own artifacts that passed, and no other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.artifact import Artifact
from medattn_edge.errors import AgreementError, InputError, IntegrityError, MedattnError, UsageError
from medattn_edge.evidence import write_report
from medattn_edge.release import verify, write_release
from medattn_edge.release.artifacts import describe
from tests.support.evidence import evidence
from tests.support.releases import make_lineage


def report_of(paths: list[Path], folder: Path, **more: Any) -> tuple[Path, Path]:
    folder.mkdir()
    return write_report(evidence(artifacts=describe([Artifact.read(path) for path in paths]), **more), folder)


def test_a_report_is_hashed_like_every_file_and_named_in_the_bill_of_materials(tmp_path: Path) -> None:
    artifacts = make_lineage(tmp_path)
    page, document = report_of(artifacts[:2], tmp_path / "reported")
    for number, given in enumerate(([tmp_path / "reported"], [page, document], [document, page])):
        release = write_release(artifacts, tmp_path / f"out{number}", report=given)
        for path in (page, document):
            assert (tmp_path / f"out{number}" / path.name).read_bytes() == path.read_bytes()
            assert release.manifest.files[path.name].bytes == path.stat().st_size
        bill = json.loads((tmp_path / f"out{number}" / "sbom.cdx.json").read_text())
        assert {"report.html", "report.json"} <= {one["name"] for one in bill["components"]}
    for name in ("report.html", "report.json"):
        path = tmp_path / "out0" / name
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"pass", b"PASS", 1))
        with pytest.raises(IntegrityError, match=name):
            verify(tmp_path / "out0")
        path.unlink()
        with pytest.raises(IntegrityError, match=name):
            verify(tmp_path / "out0")
        path.write_bytes(whole)
    verify(tmp_path / "out0")


def damaged(document: Path, **changes: Any) -> Path:
    values = json.loads(document.read_text())
    document.write_text(json.dumps({**values, **changes}))
    return document


@pytest.mark.parametrize(
    ("case", "error", "message"),
    [
        ("other artifact", IntegrityError, "speaks of net.onnx, which is none of"),
        ("not passed", AgreementError, "the verdict of report.json is fail"),
        ("other document", IntegrityError, "was not written with report.json"),
        ("newer", IntegrityError, "a report of schema 2"),
        ("no report", InputError, "is no report"),
        ("no JSON", InputError, "cannot be read"),
        ("only a page", UsageError, "or the two files"),
        ("empty folder", InputError, "does not exist"),
        ("of nothing", IntegrityError, "speaks of no artifact"),
    ],
)
def test_a_report_that_proves_nothing_of_the_release_is_refused(
    tmp_path: Path, case: str, error: type[MedattnError], message: str
) -> None:
    artifacts = make_lineage(tmp_path)
    given, folder = [tmp_path / "reported"], tmp_path / "reported"
    if case == "not passed":
        report_of(artifacts, folder, verdict="fail")
    elif case == "of nothing":
        folder.mkdir()
        write_report(evidence(artifacts={}), folder)
    else:
        report_of(artifacts, folder)
    document = folder / "report.json"
    if case == "other artifact":
        artifacts[1].write_bytes(b"another")
        manifest = json.loads(artifacts[1].with_name("net.onnx.json").read_text())
        from medattn_edge.artifact import sha256

        artifacts[1].with_name("net.onnx.json").write_text(json.dumps({**manifest, "sha256": sha256(artifacts[1])}))
    elif case == "other document":
        damaged(document, notes=["another"])
    elif case in ("newer", "no report"):
        _with_document(folder, damaged(document, **({"schema": 2} if case == "newer" else {"kind": "a letter"})))
    elif case == "no JSON":
        document.write_text("{")
        _with_document(folder, document)
    elif case == "only a page":
        given = [folder / "report.html"]
    elif case == "empty folder":
        given = [tmp_path]
    with pytest.raises(error, match=message):
        write_release(artifacts, tmp_path / "out", report=given)
    assert not (tmp_path / "out").exists()


def _with_document(folder: Path, document: Path) -> None:
    """A page that names the document as it is now."""
    import hashlib

    page = folder / "report.html"
    page.write_bytes(page.read_bytes() + hashlib.sha256(document.read_bytes()).hexdigest().encode())


def test_an_artifact_cannot_take_the_name_of_the_report(tmp_path: Path) -> None:
    artifacts = make_lineage(tmp_path)
    manifest = Artifact.read(artifacts[1]).manifest
    (tmp_path / "report.html").write_bytes(b"bytes of weights")
    from medattn_edge.artifact import sha256

    stranger = tmp_path / "report.onnx"
    stranger.write_bytes(artifacts[1].read_bytes())
    companions = {".html": sha256(tmp_path / "report.html")}
    replace(manifest, companions=companions).write(tmp_path / "report.onnx.json")
    with pytest.raises(UsageError, match="is one of the release's own"):
        write_release([stranger], tmp_path / "out")
