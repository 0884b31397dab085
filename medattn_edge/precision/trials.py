"""Trials: INT8 candidates made, judged on held-out windows in the runtime that will run them, and timed there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Artifact, Manifest, manifest_path, move_into, sha256, writing
from medattn_edge.backends import open_session
from medattn_edge.backends.isolated import IsolatedSession
from medattn_edge.backends.session import Options, Patches, Session
from medattn_edge.errors import BackendError
from medattn_edge.precision.cache import Cache
from medattn_edge.precision.judge import Judge, Verdict
from medattn_edge.precision.onnx_graph import operators, read
from medattn_edge.precision.quantizers.ort import qdq
from medattn_edge.precision.quantizers.quantizer import Calibration, Door, Recipe
from medattn_edge.timing import interleaved

ROUNDS = 7  # of a timing: enough for a median to say which of two is faster
_QUICK = 4  # held-out windows that a single layer is judged on
_LOST = -300.0  # dB of what is not finite: a number that JSON can hold


@dataclass(frozen=True)
class Runtime:
    """What runs a candidate while it is judged and timed. optimise: off, a graph is computed as it is written."""

    backend: str
    optimise: bool = True
    threads: int = 0

    def open(self, path: Path) -> Session:
        """A session on an artifact, in this process: to time it."""
        return open_session(path, backend=self.backend, threads=self.threads, optimise=self.optimise)

    def apart(self, path: Path) -> Session:
        """A session in a process of its own: to judge what may crash."""
        options = Options(threads=self.threads, optimise=self.optimise)
        return IsolatedSession(path, backend=self.backend, options=options)


@dataclass(frozen=True)
class Speed:
    """FP32 time over INT8 time in one runtime, above 1 is faster; low, high: the quartiles of the paired ratios."""

    runtime: str
    ratio_to_fp32: float
    low: float
    high: float


@dataclass(frozen=True)
class Candidate:
    """An INT8 artifact in a temporary folder, and what it is worth."""

    door: Door
    recipe: Recipe
    artifact: Artifact
    verdict: Verdict
    speed: Speed | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: one line of a report."""
        return {
            "door": self.door.name,
            "floating": len(self.recipe.floating),
            "dice": self.verdict.dice,
            "sqnr_db": self.verdict.to_json()["sqnr_db"],
            "holds": self.verdict.holds,
            "ratio_to_fp32": self.speed.ratio_to_fp32 if self.speed else None,
        }


class Trials:
    """Makes candidates of one parent and remembers each.

    model: the parent's ModelProto. room: a folder of its own, and how many graphs may be judged.
    """

    def __init__(
        self,
        parent: Artifact,
        model: Any,
        calibration: Calibration,
        judge: Judge,
        runtime: Runtime,
        room: tuple[Path, int],
    ) -> None:
        self.parent, self.model, self.calibration, self.judge = parent, model, calibration, judge
        self.runtime, (self.folder, self.limit) = runtime, room
        self.made: list[Candidate] = []
        self.count = 0

    @property
    def left(self) -> int:
        """How many more there may be."""
        return max(0, self.limit - self.count)

    def candidate(self, door: Door, recipe: Recipe) -> Candidate:
        """Quantise by a door and judge; it counts as a trial."""
        suffix = next(one for one in door.suffixes)
        files = {one: self.folder / f"trial{self.count}{one}" for one in (suffix, *door.companions)}
        self.count += 1
        door.quantise(self.parent, self.model, self.calibration, recipe, files)
        artifact = _described(self.parent, files[suffix], door)
        try:
            with self.runtime.apart(artifact.path) as session:
                verdict = self.judge.judge(session)
        except BackendError as error:  # a crash of a runtime is a verdict on the file
            verdict = Verdict.of_failure(f"{self.runtime.backend}: {error.found}")
        self.made.append(Candidate(door, recipe, artifact, verdict))
        return self.made[-1]

    def alone(self, recipe: Recipe, cache: Cache) -> Callable[[tuple[str, ...]], tuple[float, float]]:
        """Tells SQNR in dB and Dice of the parent with some nodes quantised and no others, on a few windows.

        In ONNX Runtime, as the graph is written. What was found is kept, so that an interrupted ranking goes on.
        """
        windows = tuple(range(0, len(self.judge.windows), max(1, len(self.judge.windows) // _QUICK)))[:_QUICK]
        runtime = Runtime("onnxruntime", optimise=False, threads=self.runtime.threads)
        about = {**asdict(recipe), "patches": self.calibration.digest, "judged": self.judge.windows.digest}
        about |= {"model": self.parent.manifest.sha256, "windows": list(windows), "floating": []}

        def found(nodes: tuple[str, ...]) -> tuple[float, float]:
            key = {**about, "nodes": list(nodes)}
            kept = cache.load("damage", key)
            if kept is None:
                kept = measured(nodes)
                cache.save("damage", key, kept)
            return float(kept[0]), float(kept[1])

        def measured(nodes: tuple[str, ...]) -> tuple[float, float]:
            import onnx

            path = self.folder / "alone.onnx"
            onnx.save(qdq(self.model, self.calibration.ranges(), recipe, only=nodes), str(path))
            self.count += 1
            with runtime.open(_described(self.parent, path, None).path) as session:
                verdict = self.judge.judge(session, windows)
            return max(verdict.agreement.sqnr_db, _LOST), verdict.dice

        return found

    def timed(self, candidates: Sequence[Candidate], patch: Patches) -> list[Candidate]:
        """The candidates with their speed, all measured in turn with the FP32 parent in the same runtime.

        Not where the graph is computed as it is written, which nobody would run, and none whose runtime failed.
        """
        able = [one for one in candidates if one.verdict.agreement.finite and self.runtime.optimise]
        if not able:
            return list(candidates)
        sessions = {"": self.runtime.open(self.parent.path)}
        sessions |= {str(one.artifact.path): self.runtime.open(one.artifact.path) for one in able}
        try:
            calls = {name: lambda s=session: s.run(patch) for name, session in sessions.items()}
            latency = interleaved(calls, rounds=ROUNDS, warm_up_s=0.2)
        finally:
            for session in sessions.values():
                session.close()
        speeds = {}
        for name in latency.keys() - {""}:
            ratio, (low, high) = latency[name].ratio_of(latency[""])
            speeds[name] = Speed(self.runtime.backend, ratio, low, high)
        return [replace(one, speed=speeds.get(str(one.artifact.path))) for one in candidates]


def _described(parent: Artifact, path: Path, door: Door | None) -> Artifact:
    """A candidate with a manifest beside it, as every session wants."""
    companions = door.companions if door is not None else ()
    manifest = parent.manifest.child(
        precision="int8",
        sha256=sha256(path),
        operators=operators(read(path)) if path.suffix == ".onnx" else dict(parent.manifest.operators),
        companions={suffix: sha256(path.with_suffix(suffix)) for suffix in companions},
    )
    manifest_path(path).write_text(_text(manifest), encoding="utf-8")
    return Artifact(path, manifest)


def installed(artifact: Artifact, path: Path) -> Artifact:
    """The artifact at its place, its companions with it: all of them, or none."""
    with writing(path) as files:
        return move_into(files, artifact, path)


def _text(manifest: Manifest) -> str:
    return json.dumps(manifest.to_json(), indent=2) + "\n"
