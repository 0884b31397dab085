"""A Triton server against a session of this host: what the way there and back costs, and two requests in flight win.

    make bench-remote          (python benchmarks/remote.py -o benchmarks/results/remote.json [--rounds 15])

A real tritonserver on 127.0.0.1 (`make .venv-triton/.made`) computes the artifact that is computed here beside it, each
with one thread, in turns. On loopback, and behind a proxy that keeps every byte back for half of a round trip, which is
what a network does that is far away and wide. Labels are compared before anything is timed. Two cores or more.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from artifacts import Files
from cases import CASES
from delaying_proxy import DelayingProxy
from suite import FOLDER
from volume import environment

import medattn_edge
from medattn_edge.artifact import Artifact
from medattn_edge.backends import open_session
from medattn_edge.backends.triton.remote_model import RemoteModel, write_remote_model
from medattn_edge.data import shipped_artifact, shipped_checkpoints
from medattn_edge.data.samples import sample_scan
from medattn_edge.host.cores import usable_cores
from medattn_edge.inference import SegmentSettings
from medattn_edge.serving import write_repository
from medattn_edge.timing import Latency, interleaved

ROOT = Path(__file__).parent.parent
BATCH = 4
ROUND_TRIPS_MS = (10.0, 40.0)
Calls = dict[str, Callable[[], object]]


def main(
    output: Annotated[Path, typer.Option("--output", "-o")],
    rounds: Annotated[int, typer.Option(min=3)] = 15,
) -> None:
    """Measure, print, and write one JSON file."""
    sys.path.append(str(ROOT))
    from tests.support.dicom_peers import free_port
    from tests.support.real_triton import VENV, RealTriton

    if not (VENV / ".made").is_file() or usable_cores() < 2:
        print("expected a Triton server and two cores; next: make .venv-triton/.made", file=sys.stderr)
        raise typer.Exit(3)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, port = Path(name), free_port()
        artifacts = {"patch 128x128": whole_ct(folder), **others(folder)}
        write_repository(list(artifacts.values()), folder / "repository", address=f"127.0.0.1:{port}", threads=1)
        stack.enter_context(RealTriton(folder / "repository", folder, port))
        rows = {}
        for what, artifact in artifacts.items():
            batch = BATCH if "4x" in what else 1
            taken = max(3, rounds // 3) if "96x96" in what else rounds  # a run of it takes seconds
            rows[what] = compared(patch_calls(stack, artifact, folder / "repository", batch), taken)
            print(f"{what}: {told(rows[what])}", flush=True)
        rows |= scans(stack, folder, port, max(3, rounds // 3))
    document = {"kind": "remote", "environment": environment(1), "rounds": rounds, "rows": rows}
    output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def whole_ct(folder: Path) -> Path:
    """The shipped 2-D artifact, which a whole CT is segmented with too."""
    for path in (shipped_artifact(), shipped_artifact().with_name(f"{shipped_artifact().name}.json")):
        shutil.copy(path, folder)
    return folder / shipped_artifact().name


def others(folder: Path) -> dict[str, Path]:
    """Larger patches: four of 256 x 256 in a run, and one of 96 x 96 x 96."""
    found = {"patch 4x256x256": folder / "large.onnx", "patch 96x96x96": folder / "volume.onnx"}
    shipped = shipped_checkpoints()["lungs-attention-unet-2d"]
    [case] = [one for one in CASES if one.name == "attention-unet-3d"]
    program = Path(sys.executable).with_name("medattn-edge")
    for checkpoint, path, patch in (
        (shipped, found["patch 4x256x256"], "256x256"),
        (Files(case, FOLDER).checkpoint(), found["patch 96x96x96"], "96x96x96"),
    ):
        words = [program, "export", checkpoint, "-o", path, "--patch", patch, "--batch", "dynamic"]
        subprocess.run(words, check=True, capture_output=True)
    return found


def patch_calls(stack: ExitStack, artifact: Path, repository: Path, batch: int) -> Calls:
    """One run of a session here and there, whose logits are the same bits."""
    here = stack.enter_context(open_session(artifact, threads=1))
    there = stack.enter_context(open_session(repository / f"{artifact.stem}.triton"))
    spec = here.spec
    patches = np.random.default_rng(0).random((batch, spec.in_channels, *spec.patch), dtype=np.float32)
    return {"local": lambda: here.run(patches), "remote": lambda: there.run(patches)}


def scans(stack: ExitStack, folder: Path, port: int, rounds: int) -> dict[str, Any]:
    """A whole CT, on loopback and far away, with one and with two requests in flight."""
    artifact, found = folder / shipped_artifact().name, {}
    calls = {"local": scan_call(stack, artifact), "remote": scan_call(stack, served(artifact, folder, port, 2))}
    found["a whole CT"] = compared(calls, rounds)
    print(f"a whole CT: {told(found['a whole CT'])}", flush=True)
    for trip in ROUND_TRIPS_MS:
        proxy = stack.enter_context(DelayingProxy(port, trip / 2e3))
        files = {depth: served(artifact, folder, proxy.port, depth) for depth in (1, 2)}
        calls = {"local": calls["local"], "remote": scan_call(stack, files[2]), "depth 1": scan_call(stack, files[1])}
        name = f"a whole CT, {trip:g} ms there and back"
        found[name] = compared(calls, rounds)
        print(f"{name}: {told(found[name])}", flush=True)
    return found


def served(artifact: Path, folder: Path, port: int, depth: int) -> Path:
    """A NAME.triton that asks at a port, with so many requests in flight."""
    kept = RemoteModel.read(folder / "repository" / f"{artifact.stem}.triton")
    path = folder / f"at-{port}-{depth}.triton"
    remote = replace(kept, address=f"127.0.0.1:{port}", in_flight=depth)
    return write_remote_model(Artifact.read(artifact), path, remote).path


def scan_call(stack: ExitStack, file: Path) -> Callable[[], object]:
    """Segment the chest CT that `slicerio` ships, read from its file each time."""
    settings = SegmentSettings(batch=BATCH)
    segment = stack.enter_context(medattn_edge.load(file, threads=1, settings=settings))
    return lambda: segment(sample_scan()).labels.voxels


def compared(calls: Calls, rounds: int) -> dict[str, Any]:
    """Milliseconds of each, and how many times as long as here; of two depths what the second takes of the first."""
    for name in calls.keys() - {"local"}:
        check_same(calls["local"](), calls[name]())
    taken = interleaved(calls, rounds=rounds)
    row: dict[str, Any] = {f"{name}_ms": one.p50_ms for name, one in taken.items()}
    row |= ratio("overhead", taken["local"], taken["remote"])
    row["more_ms"] = float(np.median(taken["remote"].samples_ms - taken["local"].samples_ms))
    if "depth 1" in taken:
        row |= ratio("depth_2_of_depth_1", taken["depth 1"], taken["remote"])
    return row


def ratio(name: str, whole: Latency, part: Latency) -> dict[str, Any]:
    """How many times as long `part` takes as `whole`, with its quartiles; null where the host was busy."""
    pair = whole.ratio_of(part)
    return {name: pair.figure, f"{name}_spread": pair.spread, f"{name}_declined": pair.declined or None}


def told(row: dict[str, Any]) -> str:
    """A row as a line."""
    parts = [f"{row['local_ms']:.1f} ms here, {row['remote_ms']:.1f} ms there"]
    for name in ("overhead", "depth_2_of_depth_1"):
        if name in row:
            spread = row[f"{name}_spread"]
            figure = row[f"{name}_declined"] or f"{row[name]:.2f} [{spread[0]:.2f}, {spread[1]:.2f}]"
            parts.append(f"{name.replace('_', ' ')} {figure}")
    return ", ".join(parts)


def check_same(here: object, there: object) -> None:
    """Raise unless both are the same bits: another answer has no speed."""
    if not np.array_equal(np.asarray(here), np.asarray(there)):
        raise SystemExit("the server gives another answer than this host: nothing was timed")


if __name__ == "__main__":
    typer.run(main)
