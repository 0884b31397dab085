"""Small releases: real files and manifests, whose model no runtime would open where nothing has to be segmented."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Artifact, manifest_path, sha256
from medattn_edge.release import generate_key, load_private_key, sign_release, write_release
from tests.support.node_files import make_artifact


def make_lineage(folder: Path) -> list[Path]:
    """An FP32 file, an INT8 one made of it with calibration data, and an engine of two files made of that."""
    fp32 = make_artifact(folder / "net.onnx")
    first = replace(Artifact.read(fp32).manifest, tools={"python": "3.11.9", "onnx": "1.23.2"})
    first = replace(first, agreement=({"input": "patient.nii.gz", "thresholds": {"min_sqnr_db": 90.0}},))
    first.write(manifest_path(fp32))
    int8 = folder / "net.int8.onnx"
    int8.write_bytes(b"the same in eight bits")
    recipe = {"calibration_sha256": "d" * 64, "calibrated_on": {"patient.nii.gz": 12}, "quantizer": "ort"}
    second = first.child(sha256=sha256(int8), precision="int8", recipe=recipe)
    second.write(manifest_path(int8))
    engine = folder / "net.xml"
    engine.write_bytes(b"<net/>")
    engine.with_suffix(".bin").write_bytes(bytes(range(200)))
    companions = {".bin": sha256(engine.with_suffix(".bin"))}
    target = {"compiler": "openvino", "runs_on": "any x86"}
    third = second.child(sha256=sha256(engine), companions=companions, target=target, exporter="openvino")
    third.write(manifest_path(engine))
    return [engine, fp32, int8]


def signed_release(folder: Path, output: str = "release", key: str = "KEY", **more: Any) -> tuple[Path, Path]:
    """A release of `make_lineage` in a folder or a .zip, signed; and the public key."""
    private = folder / key
    if not private.exists():
        generate_key(private, f"{key}'s owner")
    artifacts = make_lineage(folder)
    write_release(artifacts, folder / output, **{"name": "lungs", **more})
    sign_release(folder / output, load_private_key(private))
    return folder / output, private.with_name(f"{key}.pub")
