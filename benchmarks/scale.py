"""Two workers against one, with one thread each: sessions by themselves, and whole cohorts.

    python benchmarks/scale.py ARTIFACT SCAN -o scale.json [--rounds 7] [--seconds 4] [--studies 24]

Sessions: one process, or two at once, run the network for some seconds; OpenVINO with its threads tied to cores, as it
is by itself, and with cores that are shared (`open_session(shared_cores=True)`), and ONNX Runtime. Cohorts: copies of
SCAN, segmented by one worker and by two. Everything takes turns, every other round
backwards; a ratio is the rate of two over the rate of one in the same round. A cohort's rate counts from its first
results on; the seconds until then are told beside it. Engines: two workers on Ray against two local ones, likewise,
and how much later everything is done, which is what Ray costs a run. Run it on a quiet host with two cores or more.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from volume import environment

from medattn_edge.backends.isolated import IsolatedSession
from medattn_edge.backends.session import Options
from medattn_edge.cohort import CohortSettings, PoolSettings, segment_cohort
from medattn_edge.cohort.settings import Engine
from medattn_edge.host.cores import usable_cores
from medattn_edge.inference import Opening
from medattn_edge.timing import Latency

SESSIONS = {
    "openvino, tied to cores": ("openvino", False),
    "openvino, shared cores": ("openvino", True),
    "onnxruntime": ("onnxruntime", True),
}


ENGINES: dict[int, Engine] = {1: "local", 2: "ray"}


class Pool(PoolSettings):
    """Also one worker is another process: what two are held to."""

    @property
    def has_workers(self) -> bool:
        return True


def main(
    artifact: Path,
    scan: Path,
    output: Annotated[Path, typer.Option("--output", "-o")],
    rounds: Annotated[int, typer.Option(min=1)] = 7,
    seconds: Annotated[float, typer.Option(help="Of each measurement of sessions.")] = 4.0,
    studies: Annotated[int, typer.Option(min=4, help="Of each cohort.")] = 24,
) -> None:
    """Measure, print, and write one JSON file."""
    if usable_cores() < 2:
        print("two workers need two cores", file=sys.stderr)
        raise typer.Exit(3)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        scans = copies(scan, Path(folder) / "scans", studies)
        measures: dict[str, Callable[[int], dict[str, float]]] = {
            **{f"sessions, {name}": sessions(stack, artifact, *how, seconds) for name, how in SESSIONS.items()},
            "cohort": cohort(artifact, scans, Path(folder)),
        }
        taken = in_turns(measures, rounds)
        engines = {"engines": lambda count: cohort(artifact, scans, Path(folder), ENGINES[count])(2)}
        taken |= in_turns(engines, max(3, rounds // 2)) if find_spec("ray") else {}
    rows = {name: row(one) for name, one in taken.items()}
    if "engines" in rows:
        both = taken["engines"]
        later = [ray["all_s"] - local["all_s"] for local, ray in zip(both["1"], both["2"], strict=True)]
        rows["engines"]["later_s"] = float(np.median(later))
        print(f"on Ray everything is done {rows['engines']['later_s']:.1f} s later")
    document = {"kind": "scale", "environment": environment(1), "artifact": artifact.name, "rows": rows, "raw": taken}
    output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for name, one in rows.items():
        low, high = one["ratio_spread"]
        rates = f"{one['one_per_s']:.2f} and {one['two_per_s']:.2f} a second"
        ratio = f"{one['ratio']:.2f} ({low:.2f} to {high:.2f})"
        print(f"{name}: {rates}: {'declined: ' + one['ratio_declined'] if one['ratio_declined'] else ratio}")


def in_turns(
    measures: dict[str, Callable[[int], dict[str, float]]], rounds: int
) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Each with one and with two workers, in turn; every other round backwards."""
    turns = [(name, count) for name in measures for count in (1, 2)]
    taken: dict[str, dict[str, list[dict[str, float]]]] = {name: {"1": [], "2": []} for name in measures}
    for number in range(rounds):
        for name, count in turns if number % 2 == 0 else reversed(turns):
            taken[name][str(count)].append(measures[name](count))
            print(f"round {number + 1} of {rounds}: {name}, {count}", file=sys.stderr)
    return taken


def row(taken: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians, and the paired ratio of two over one."""
    periods = {count: Latency(np.array([1e3 / one["per_s"] for one in values])) for count, values in taken.items()}
    pair = periods["2"].ratio_of(periods["1"])
    medians = {}
    for word, count in (("one", "1"), ("two", "2")):
        for figure in taken[count][0]:
            medians[f"{word}_{figure}"] = float(np.median([one[figure] for one in taken[count]]))
    return {
        **medians,
        "ratio": pair.median,
        "ratio_spread": list(pair.quartiles),
        "ratio_declined": pair.declined or None,
    }


def sessions(
    stack: ExitStack, artifact: Path, backend: str, shared_cores: bool, seconds: float
) -> Callable[[int], dict[str, float]]:
    """Runs a second of one or two processes that are open all the time."""
    options = Options(threads=1, shared_cores=shared_cores)
    both = [stack.enter_context(IsolatedSession(artifact, backend=backend, options=options)) for _ in range(2)]
    spec = both[0].spec
    patches = np.random.default_rng(0).random((both[0].batch or 1, spec.in_channels, *spec.patch), np.float32)
    for session in both:
        session.run(patches)

    def measured(count: int) -> dict[str, float]:
        runs = [0] * count
        end = time.perf_counter() + seconds

        def work(index: int) -> None:
            while time.perf_counter() < end:
                both[index].run(patches)
                runs[index] += 1

        threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"per_s": sum(runs) / (time.perf_counter() - start)}

    return measured


@dataclass
class Clock:
    """When each case was done."""

    start: float
    done: list[float]

    def tick(self, case: str, part: float, total: int) -> None:
        self.done.append(time.perf_counter() - self.start)


def cohort(artifact: Path, scans: Path, folder: Path, engine: Engine = "local") -> Callable[[int], dict[str, float]]:
    """Cases a second, from the first results on."""

    def measured(count: int) -> dict[str, float]:
        out = folder / "out"
        settings = CohortSettings(
            opening=Opening(backend="openvino", threads=1), pool=Pool(workers=count, engine=engine)
        )
        clock = Clock(time.perf_counter(), [])
        outcome = segment_cohort(artifact, scans, out, settings=settings, progress=clock.tick)
        assert outcome.passed, outcome.failures
        shutil.rmtree(out)
        first, last = clock.done[count - 1], clock.done[-1]
        return {"per_s": (len(clock.done) - count) / (last - first), "first_s": clock.done[0], "all_s": last}

    return measured


def copies(scan: Path, folder: Path, count: int) -> Path:
    """A folder with so many copies of a scan."""
    from medattn_edge.io import read_volume

    sys.path.append(str(Path(__file__).parent.parent))
    from tests.support.scans import write_nifti

    folder.mkdir()
    volume = read_volume(scan)
    for number in range(count):
        write_nifti(folder / f"study_{number:03}.nii", volume)
    return folder


if __name__ == "__main__":
    typer.run(main)
