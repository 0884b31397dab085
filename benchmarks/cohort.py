"""Ten scans by one command against ten commands of one scan each.

    python benchmarks/cohort.py ARTIFACT SCAN -o results.json [--count 10] [--rounds 3] [--threads 2]

`medattn-edge infer ARTIFACT FOLDER -o OUT/` opens the artifact once and reads ahead; a command for each scan pays for
its imports and its model every time. The scans are one scan, moved by a slice more each time, so that no two are
alike: as long to read and to segment as a cohort of that size. Both ways take turns, every other round the other way
about, and the labels of both must be the same files byte for byte, or there is no figure.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import nibabel
import numpy as np
import typer
from volume import PROGRAM, environment


def main(
    artifact: Path,
    scan: Annotated[Path, typer.Argument(help="A NIfTI file.")],
    output: Annotated[Path, typer.Option("--output", "-o")],
    count: Annotated[int, typer.Option(min=2)] = 10,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    threads: Annotated[int, typer.Option(min=0, help="0 is one for each core that this process may use.")] = 0,
) -> None:
    """Measure a cohort."""
    from medattn_edge.host.cores import usable_cores

    threads, before = threads or usable_cores(), os.getloadavg()
    single, together = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scans = cohort_of(scan, folder / "scans", count)
        for index in range(rounds):
            for way in (0, 1) if index % 2 == 0 else (1, 0):
                into = folder / f"{index}-{way}"
                if way == 0:
                    single.append(one_by_one(artifact, scans, into, threads) / count)
                else:
                    together.append(one_command(artifact, scans[0].parent, into, threads) / count)
            print(f"round {index + 1} of {rounds}: {single[-1]:.2f} s, {together[-1]:.2f} s a scan", file=sys.stderr)
            alike(folder / f"{index}-0", folder / f"{index}-1", count)
    ratios = [one / other for one, other in zip(single, together, strict=True)]
    document = {
        "environment": environment(threads) | {"load_average": {"before": before, "after": os.getloadavg()}},
        "artifact": artifact.name,
        "scan": {"name": scan.name, "subjects": 1, "count": count},
        "rounds": rounds,
        "seconds_a_scan": {"a command each": single, "one command": together},
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "labels": "the same bytes",
    }
    output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    low, high = min(ratios), max(ratios)
    print(
        f"{count} scans by one command: {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f}) times as fast a scan"
    )


def cohort_of(scan: Path, folder: Path, count: int) -> list[Path]:
    """As many scans as asked for, in a folder of their own."""
    image: Any = nibabel.load(scan)
    voxels = np.asanyarray(image.dataobj)
    folder.mkdir(parents=True)
    paths = []
    for index in range(count):
        paths.append(folder / f"case{index:02}.nii.gz")
        nibabel.Nifti1Image(np.roll(voxels, index, axis=2), image.affine, image.header).to_filename(paths[-1])
    return paths


def one_by_one(artifact: Path, scans: list[Path], into: Path, threads: int) -> float:
    """Seconds of a command for each scan."""
    into.mkdir()
    start = time.perf_counter()
    for scan in scans:
        run(PROGRAM, "infer", artifact, scan, "-o", into / scan.name, "--threads", threads)
    return time.perf_counter() - start


def one_command(artifact: Path, folder: Path, into: Path, threads: int) -> float:
    """Seconds of a command for all of them."""
    start = time.perf_counter()
    run(PROGRAM, "infer", artifact, folder, "-o", f"{into}/", "--threads", threads)
    return time.perf_counter() - start


def run(*words: object) -> None:
    """A command that must succeed."""
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{words[1]} ended with {done.returncode}\n{done.stdout}{done.stderr}")


def alike(one: Path, other: Path, count: int) -> None:
    """Hold the labels of both ways to each other."""
    first, second = (
        {path.name.partition(".")[0].removesuffix("_labels"): path.read_bytes() for path in way.rglob("*.nii.gz")}
        for way in (one, other)
    )
    if len(first) != count or first != second:
        differing = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
        sys.exit(f"{len(first)} and {len(second)} files of labels of {count} scans; not the same: {differing}")


if __name__ == "__main__":
    typer.run(main)
