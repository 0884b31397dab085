"""A CT volume end to end, against MONAI's sliding window around the eager network.

    python benchmarks/volume.py CHECKPOINT SCAN ARTIFACT... -o results.json [--rounds 5] [--threads 2] [--cache]
        [--warm] [--labels LABELS --label-value liver=5 ...]

Load, resample, infer, stitch, resample back, write the labels: each run is a command in a fresh process, so that its
imports and its first inference count; the candidates take turns, every other round backwards. Time is the wall's,
memory the peak resident set of the process. A ratio is MONAI's figure over the candidate's in the same round; MONAI is
given the faster of two batch sizes. Beside each speed stands the Dice of its labels with those of the eager network in
our own pipeline, and with MONAI's, whose windows lie elsewhere. The eager network takes windows of the checkpoint's
patch and overlap, MONAI of that patch and an overlap of 0.5, an artifact its own, which may be others: with true labels
every row is held to both thresholds of `gates.TRUE_LABELS`, without them to the Dice with eager; what fails has no
speed. `--warm` adds the second scan of one process, ours and MONAI's.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

PROGRAM = Path(sys.executable).with_name("medattn-edge")
PEER = Path(__file__).with_name("volume_monai.py")
EAGER = """
import sys
from medattn_edge.backends import open_session
from medattn_edge.inference import segment
from medattn_edge.io import read_volume, write_labels
from pathlib import Path
checkpoint, scan, output, threads = sys.argv[1:]
with open_session(checkpoint, threads=int(threads)) as session:
    found = segment(session, read_volume(Path(scan)))
write_labels(Path(output), found.labels, found.names)
"""
WARM = """
import sys, time
from medattn_edge.backends import open_session
from medattn_edge.inference import segment
from medattn_edge.io import read_volume, write_labels
from pathlib import Path
artifact, scan, output, threads = sys.argv[1:]
with open_session(artifact, threads=int(threads)) as session:
    for _ in range(2):
        start = time.perf_counter()
        found = segment(session, read_volume(Path(scan)))
        write_labels(Path(output), found.labels, found.names)
print(time.perf_counter() - start)
"""
HEAD = (
    "candidate",
    "MONAI time / its time",
    "MONAI memory / its memory",
    "minimum Dice, eager",
    "minimum Dice, MONAI",
    "share of eager's true Dice",
    "verdict",
)


@dataclass
class Candidate:
    """A command that writes labels to `output`, and the outcome of each run.

    warm: it prints the seconds that count; use: what else computed while all of them ran.
    """

    name: str
    words: tuple[object, ...]
    output: Path
    warm: bool = False
    seconds: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    use: Any = None

    def run(self, threads: int, counts: bool = True) -> None:
        """One run in a fresh process."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with tempfile.TemporaryFile() as said:
            start = time.perf_counter()
            child = subprocess.Popen(list(map(str, self.words)), env=environment, stdout=said, stderr=said)
            _, status, usage = os.wait4(child.pid, 0)  # it alone tells the peak of this one child
            took = time.perf_counter() - start
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode:
                said.seek(0)
                sys.exit(f"{self.name} ended with {child.returncode}\n{said.read().decode(errors='replace')}")
            if self.warm:
                said.seek(0)
                took = float(said.read().split()[-1])
        if counts:
            self.seconds.append(took)
            self.peak_mb.append(usage.ru_maxrss / 1024)


def main(  # noqa: PLR0913 - options of a command
    checkpoint: Path,
    scan: Path,
    artifacts: Annotated[list[Path], typer.Argument(help="Of this checkpoint.")],
    output: Annotated[Path, typer.Option("--output", "-o")],
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    threads: Annotated[int, typer.Option(min=0, help="0 is one for each core that this process may use.")] = 0,
    cache: Annotated[bool, typer.Option("--cache", help="Also with OpenVINO's compiled models kept.")] = False,
    warm: Annotated[bool, typer.Option("--warm", help="Also the second scan of one process.")] = False,
    labels: Annotated[Path | None, typer.Option(help="True labels of the scan.")] = None,
    label_value: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE")] = None,
) -> None:
    """Measure one scan end to end."""
    from medattn_edge.artifact import Artifact
    from medattn_edge.host.cores import usable_cores
    from medattn_edge.host.cpu_use import CpuTimes, cpu_use_since
    from medattn_edge.inference.truth import parse_label_values
    from medattn_edge.models import checkpoint as checkpoints

    threads = threads or usable_cores()
    spec = checkpoints.load(checkpoint).spec
    patch = "x".join(map(str, spec.patch))
    before = os.getloadavg()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        eager = Candidate(
            "eager in our pipeline",
            (sys.executable, "-c", EAGER, checkpoint, scan, folder / "eager.nii.gz", threads),
            folder / "eager.nii.gz",
        )
        monai = [peer((checkpoint, scan), folder / f"monai-{size}.nii.gz", threads, patch, size) for size in (1, 4)]
        ours = [infer(path, scan, folder / f"{index}.nii.gz", threads) for index, path in enumerate(artifacts)]
        if cache:
            kept = [infer(path, scan, folder / f"kept-{path.name}.nii.gz", threads, folder) for path in artifacts]
            for one in kept:  # what is measured is the second time
                one.run(threads, counts=False)
            ours += kept
        if warm:
            second = folder / "monai-warm.nii.gz"
            monai_warm = peer((checkpoint, scan), second, threads, patch, 1)
            monai_warm.name, monai_warm.warm = "MONAI, eager, its second scan", True
            monai_warm.words = (*monai_warm.words, "--warm")
            ours += [monai_warm, *(in_one_process(path, scan, folder, threads) for path in artifacts)]
        eager.run(threads)
        everything = [*monai, *ours]
        start = CpuTimes.now()
        for index in range(rounds):
            for one in everything if index % 2 == 0 else everything[::-1]:
                one.run(threads)
                print(f"round {index + 1} of {rounds}: {one.name}, {one.seconds[-1]:.1f} s", file=sys.stderr)
        use = cpu_use_since(start)
        for one in everything:
            one.use = use
        best = min(monai, key=lambda one: statistics.median(one.seconds))
        truth = None if labels is None else (labels, parse_label_values(label_value or []))
        rows = [row(one, best, eager, spec, scan, truth) for one in everything]
        shape = grid(best.output)
    document = {
        "environment": environment(threads) | {"load_average": {"before": before, "after": os.getloadavg()}},
        "checkpoint": checkpoint.name,
        "scan": {"name": scan.name, "subjects": 1, **shape},
        "patch": patch,
        "patches": {path.name: "x".join(map(str, Artifact.read(path).spec.patch)) for path in artifacts},
        "overlap": spec.overlap,
        "overlaps": {path.name: Artifact.read(path).spec.overlap for path in artifacts},
        "rounds": rounds,
        "reference": best.name,
        "rows": rows,
    }
    output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"{checkpoint.name} on {scan.name} (1 subject), patch {patch}; the reference is {best.name}\n")
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    for one in rows:
        print("| " + " | ".join(cells(one)) + " |")


def infer(path: Path, scan: Path, output: Path, threads: int, kept: Path | None = None) -> Candidate:
    """Our own command; kept: a folder for its compiled models."""
    words = (PROGRAM, "infer", path, scan, "-o", output, "--threads", threads)
    if kept is None:
        return Candidate(path.name, words, output)
    return Candidate(f"{path.name}, model kept", (*words, "--cache", kept / "models"), output)


def in_one_process(path: Path, scan: Path, folder: Path, threads: int) -> Candidate:
    """Two scans in one process of which the second counts."""
    output = folder / f"warm-{path.name}.nii.gz"
    words = (sys.executable, "-c", WARM, path, scan, output, threads)
    return Candidate(f"{path.name}, its second scan", words, output, warm=True)


def peer(inputs: tuple[Path, Path], output: Path, threads: int, patch: str, size: int) -> Candidate:
    """MONAI's transforms and sliding window; inputs: the checkpoint and the scan."""
    words = (sys.executable, PEER, *inputs, output, "--threads", threads, "--patch", patch, "--sw-batch-size", size)
    return Candidate(f"MONAI, eager, sw_batch_size {size}", words, output)


def row(
    one: Candidate, best: Candidate, eager: Candidate, spec: Any, scan: Path, truth: tuple[Path, Any] | None
) -> dict[str, Any]:
    """What is told of a candidate; truth: the file of true labels, and label -> its values there."""
    from medattn_edge import gates

    ratios = [theirs / its for theirs, its in zip(best.seconds, one.seconds, strict=True)]
    with_eager = dice(eager.output, one.output, spec)
    shares = true_dice_share(one, eager, spec, scan, truth)
    limits = gates.TRUE_LABELS.limits
    failures = [
        f"Dice with eager of {name} {value:.4f}" for name, value in with_eager.items() if value < limits["min_dice"]
    ]
    failures += [
        f"share of the true Dice of {name} {share:.4f}"
        for name, share in shares.items()
        if not limits["min_true_dice_share"] <= share <= limits["max_true_dice_share"]
    ]
    told = {
        "candidate": one.name,
        "ratio_to_reference": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "seconds": one.seconds,
        "peak_rss_mb": max(one.peak_mb),
        "memory_ratio": max(best.peak_mb) / max(one.peak_mb),
    }
    declined = "" if one is best else declined_ratio(one, best)
    if declined:
        told |= dict.fromkeys(("ratio_to_reference", "ratio_spread"))
    if failures:
        told |= dict.fromkeys(("ratio_to_reference", "ratio_spread", "seconds", "memory_ratio"))
    told |= {"dice_eager": with_eager, "dice_monai": dice(best.output, one.output, spec)}
    told["ratio_declined"] = declined or None
    return told | {"true_dice_share": shares, "verdict": "fail" if failures else "pass", "failures": failures}


def declined_ratio(one: Candidate, best: Candidate) -> str:
    """Why the ratio of their times is no figure, by the gate of every other ratio; empty where it is one."""
    import numpy as np

    from medattn_edge.timing import Latency

    own, its = (Latency(1e3 * np.array(each.seconds), each.use) for each in (one, best))
    return own.ratio_of(its).declined


def cells(one: dict[str, Any]) -> tuple[str, ...]:
    """A line of the table."""
    low, high = one["ratio_spread"] or (None, None)
    shares = one["true_dice_share"].values()
    return (
        one["candidate"],
        "declined"
        if one["ratio_declined"]
        else "-"
        if low is None
        else f"{one['ratio_to_reference']:.1f} ({low:.1f}..{high:.1f})",
        "-" if one["memory_ratio"] is None else f"{one['memory_ratio']:.1f}",
        *(f"{min(one[of].values()):.4f}" for of in ("dice_eager", "dice_monai")),
        f"{min(shares):.4f} to {max(shares):.4f}" if shares else "-",
        "FAIL: " + "; ".join(one["failures"]) if one["failures"] else "pass",
    )


def dice(first: Path, second: Path, spec: Any) -> dict[str, float]:
    """Of two files of labels."""
    from medattn_edge.agreement import dice_per_label
    from medattn_edge.io import read_labels
    from medattn_edge.labels import Meaning

    return dice_per_label(read_labels(first).voxels, read_labels(second).voxels, Meaning.of(spec))


def true_dice_share(
    one: Candidate, eager: Candidate, spec: Any, scan: Path, truth: tuple[Path, Any] | None
) -> dict[str, float]:
    """Label -> the candidate's true Dice over eager's, in the whole scan; empty without true labels."""
    from medattn_edge.agreement import true_dice
    from medattn_edge.inference.truth import read_true_labels
    from medattn_edge.io import read_labels, read_volume
    from medattn_edge.labels import Meaning

    if truth is None:
        return {}
    meaning = Meaning.of(spec)
    right = read_true_labels(truth[0], read_volume(scan), meaning, truth[1]).voxels
    own, its = (true_dice(right, read_labels(two.output).voxels, meaning) for two in (eager, one))
    return {name: its[name] / value for name, value in own.items()}


def grid(path: Path) -> dict[str, Any]:
    """How large the scan is."""
    from medattn_edge.io import read_labels

    volume = read_labels(path)
    return {"shape": volume.shape, "spacing_mm": [round(mm, 4) for mm in volume.spacing]}


def environment(threads: int) -> dict[str, Any]:
    """Where it was measured, and with what."""
    from importlib.metadata import version

    from medattn_edge.host import hardware

    cpu = hardware.cpu()
    packages = ("medattn-edge", "monai", "nibabel", "numpy", "onnxruntime", "openvino", "torch")
    return {
        "cpu": cpu.model,
        "instruction_sets": cpu.instruction_sets,
        "physical_cores": cpu.physical_cores,
        "threads": threads,
        "date": time.strftime("%Y-%m-%d"),
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in packages},
    }


if __name__ == "__main__":
    typer.run(main)
