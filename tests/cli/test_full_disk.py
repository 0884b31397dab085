"""A full disk is named as the cause, by every command that writes, and leaves no cut file."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.data.samples import sample_scan

Run = Callable[..., Any]
LIMIT = 512  # bytes of a file: less than any output has


@contextmanager
def no_room() -> Iterator[None]:
    """No file of this process and its children grows beyond LIMIT; Python ignores the signal, so writing fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


COMMANDS = {
    "export": ("export", "{checkpoint}", "-o", "out.onnx"),
    "export of a program": ("export", "{checkpoint}", "-o", "out.torchscript"),
    "export in fp16": ("export", "{checkpoint}", "-o", "out.onnx", "--precision", "fp16", "--scan", "{scan}"),
    "compile": ("compile", "{artifact}", "-o", "out.xml", "--scan", "{scan}"),
    "compile to a blob": ("compile", "{artifact}", "-o", "out.blob", "--scan", "{scan}"),
    "calibrate": (
        *("calibrate", "{artifact}", "{real}", "-o", "out.onnx", "--profile", "cpu", "--samples", "2"),
        *("--held-out-samples", "2", "--threads", "1"),
    ),
    "infer": ("infer", "{artifact}", "{scan}", "-o", "out.nii.gz"),
    "infer to nrrd": ("infer", "{artifact}", "{scan}", "-o", "out.nrrd"),
    "infer to npz": ("infer", "{artifact}", "{scan}", "-o", "out.npz"),
    "infer with probabilities": ("infer", "{artifact}", "{scan}", "-o", "out.npz", "--probabilities", "out.nii"),
    "infer with a picture": ("infer", "{artifact}", "{scan}", "-o", "out.npz", "--overlay", "out.png"),
    "train": (
        *(
            "train",
            "{scan}",
            "{truth}",
            "-o",
            "out.safetensors",
            "--network",
            "attention-unet-2d",
            "--label",
            "1=organ",
        ),
        *("--set", "width=4", "--patch", "32x32", "--spacing", "none", "--intensity", "none"),
        *("--epochs", "1", "--steps", "1", "--batch", "2"),
    ),
    "node init": ("node", "init", "{artifact}", "-o", "out.toml"),
}


QUICK = ("export", "compile", "infer", "train", "node init")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS]
)
def test_a_full_disk_is_the_cause_and_nothing_is_left(
    medattn: Run, checkpoint: Path, artifact: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:  # fmt: skip
    truth = scan.with_name("truth.nii.gz")
    places = {"checkpoint": checkpoint, "artifact": artifact, "scan": scan, "real": sample_scan(), "truth": truth}
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = [word.format(**places) for word in COMMANDS[name]]
    with no_room():
        done = medattn(*words)
    assert done.returncode == 3, done.stderr
    assert "cannot write" in done.stderr
    assert "File too large" in done.stderr
    assert "df -h" in done.stderr
    assert list(work.iterdir()) == []
