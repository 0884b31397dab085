"""Trials: INT8 candidates made, judged on held-out windows in the runtime that will run them, and timed there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Artifact, manifest_path, move_into, sha256, writing
from medattn_edge.backends import open_session
from medattn_edge.backends.isolated import IsolatedSession
from medattn_edge.backends.session import Options, Patches, Session
from medattn_edge.errors import BackendError
from medattn_edge.precision.cache import NO_CACHE, Cache
from medattn_edge.precision.judge import Judge, Verdict
from medattn_edge.precision.layers import layers
from medattn_edge.precision.onnx_graph import operators, read
from medattn_edge.precision.quantizers.ort import qdq
from medattn_edge.precision.quantizers.quantizer import Calibration, QuantizationRecipe, Quantizer
from medattn_edge.precision.sensitivity import Damage, SingleLayers, fewest_floating, rank
from medattn_edge.timing import Latency, interleaved

Progress = Callable[[str, int, int], None]  # what is going on, steps done, of
ROUNDS = 7  # of a timing: enough for a median to say which of two is faster
_QUICK = 4  # held-out windows that a single layer is judged on
_LOST = -300.0  # dB of what is not finite: a number that JSON can hold


@dataclass(frozen=True)
class TrialRuntime:
    """What runs a candidate while it is judged and timed.

    Attributes:
        backend: the record's name.
        optimise: off, a graph is computed as it is written.
        threads: of the CPU; 0 leaves it to the runtime.
    """

    backend: str
    optimise: bool = True
    threads: int = 0

    def open(self, path: Path) -> Session:
        """A session on an artifact, in this process: to time it."""
        return open_session(path, backend=self.backend, threads=self.threads, optimise=self.optimise)

    def open_isolated(self, path: Path) -> Session:
        """A session in a process of its own: to judge what may crash."""
        options = Options(threads=self.threads, optimise=self.optimise)
        return IsolatedSession(path, backend=self.backend, options=options)


@dataclass(frozen=True)
class Speed:
    """FP32 time over INT8 time in one runtime, above 1 is faster.

    Attributes:
        runtime: the backend.
        ratio_to_fp32: the median of the paired ratios.
        low: their first quartile.
        high: their third quartile.
        declined: why the ratio is no figure: the host was busy; empty where it is one.
        p50_ms: of one run; None where it is not known.
        fp32_p50_ms: of one run of the FP32 parent in the same rounds.
    """

    runtime: str
    ratio_to_fp32: float
    low: float
    high: float
    declined: str = ""
    p50_ms: float | None = None
    fp32_p50_ms: float | None = None

    @classmethod
    def of(cls, runtime: str, latency: Latency, fp32: Latency) -> Speed:
        """Of one that was timed in turn with its FP32 parent."""
        ratio = latency.ratio_of(fp32)
        return cls(runtime, ratio.median, *ratio.quartiles, ratio.declined, latency.p50_ms, fp32.p50_ms)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a ratio that is no figure is None, and `ratio_declined` says why."""
        figures = {"ratio_to_fp32": self.ratio_to_fp32, "low": self.low, "high": self.high}
        if self.declined:
            figures = dict.fromkeys(figures)  # type: ignore[assignment]
        times = {"p50_ms": self.p50_ms, "fp32_p50_ms": self.fp32_p50_ms}
        return {"runtime": self.runtime, **figures, **times, "ratio_declined": self.declined or None}


@dataclass(frozen=True)
class QuantizedCandidate:
    """An INT8 artifact in a temporary folder, and what was found about it.

    Attributes:
        quantizer: that wrote it.
        recipe: that it followed.
        artifact: the file.
        verdict: on the held-out windows.
        speed: against FP32, where it was measured.
    """

    quantizer: Quantizer
    recipe: QuantizationRecipe
    artifact: Artifact
    verdict: Verdict
    speed: Speed | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: one line of a report; `dice` is the smallest Dice with the reference of any label."""
        shares = self.verdict.true_dice_share
        return {
            "quantizer": self.quantizer.name,
            "floating": len(self.recipe.floating),
            "dice": self.verdict.dice,
            "true_dice_share": None if shares is None else [one if isfinite(one) else None for one in shares],
            "sqnr_db": self.verdict.to_json()["sqnr_db"],
            "holds": self.verdict.holds,
            "ratio_to_fp32": self.speed.to_json()["ratio_to_fp32"] if self.speed else None,
            "ratio_declined": self.speed.to_json()["ratio_declined"] if self.speed else None,
        }


def _rank(candidate: QuantizedCandidate) -> Any:
    return candidate.verdict.rank


class QuantizationTrials:
    """Makes candidates of one parent and keeps each.

    Args:
        parent: the FP32 artifact.
        model: its ModelProto.
        calibration: what its activations look like.
        judge: holds candidates to the gate.
        runtime: that judges and times.
        room: a folder of its own, and how many graphs may be judged.

    Attributes:
        candidates: all that were judged as a whole, in order.
        count: how many graphs were judged.
        exhausted: whether more trials would tell more: a graph was wanted when none was left, or layers were ranked
            together for want of them.
    """

    def __init__(
        self,
        parent: Artifact,
        model: Any,
        calibration: Calibration,
        judge: Judge,
        runtime: TrialRuntime,
        room: tuple[Path, int],
    ) -> None:
        self.parent, self.model, self.calibration, self.judge = parent, model, calibration, judge
        self.runtime, (self.folder, self.limit) = runtime, room
        self.candidates: list[QuantizedCandidate] = []
        self.count = 0
        self.exhausted = False

    @property
    def left(self) -> int:
        """How many more there may be."""
        return max(0, self.limit - self.count)

    def candidate(self, quantizer: Quantizer, recipe: QuantizationRecipe) -> QuantizedCandidate:
        """Quantise and judge; it counts as a trial."""
        suffix = next(one for one in quantizer.suffixes)
        files = {one: self.folder / f"trial{self.count}{one}" for one in (suffix, *quantizer.companions)}
        self.count += 1
        quantizer.quantise(self.parent, self.model, self.calibration, recipe, files)
        artifact = _described(self.parent, files[suffix], quantizer.companions)
        try:
            with self.runtime.open_isolated(artifact.path) as session:
                verdict = self.judge.judge(session)
        except BackendError as error:  # a crash of a runtime is a verdict on the file
            verdict = Verdict.of_failure(f"{self.runtime.backend}: {error.found}")
        self.candidates.append(QuantizedCandidate(quantizer, recipe, artifact, verdict))
        return self.candidates[-1]

    def with_floating_layers(
        self,
        best: QuantizedCandidate,
        cache: Cache = NO_CACHE,
        progress: Progress | None = None,
        closeness: Callable[[QuantizedCandidate], Any] = _rank,
    ) -> tuple[QuantizedCandidate, list[Damage]]:
        """The candidate with the fewest layers in floating point that holds the gate, or the closest one.

        Args:
            best: the candidate whose quantizer and recipe are tried again.
            cache: where the damage of single layers is kept.
            progress: called with what is done, how many steps of it, and of how many.
            closeness: the larger the better, among candidates none of which holds the gate.

        Returns:
            The candidate, and the ranking of the layers that was gone by.
        """
        report = progress or (lambda what, done, total: None)
        kept = best.recipe.floating  # which nobody asked to try
        every = tuple(layer for layer in layers(self.model) if layer.node not in kept)
        damage = self._damage_of(best.recipe, cache)
        trials = max(1, self.left // 2)
        ranking = rank(every, trials, damage, lambda done, total: report("ranking layers", done, total))
        self.exhausted = self.exhausted or any(len(one.layers) > 1 for one in ranking)
        first = len(self.candidates)

        def floating(nodes: tuple[str, ...]) -> Verdict | None:
            if not self.left:
                self.exhausted = True
                return None
            what = f"{len(nodes)} of {len(every)} layers in floating point"
            report(what, len(self.candidates) - first, self.left)
            return self.candidate(best.quantizer, replace(best.recipe, floating=(*kept, *nodes))).verdict

        fewest_floating(ranking, floating)
        names = {layer.node for layer in every}
        # With every layer in floating point any gate holds, and nothing of it is INT8.
        tried = [best, *(one for one in self.candidates[first:] if not names <= set(one.recipe.floating))]
        enough = [one for one in tried if one.verdict.holds]
        if enough:
            return min(enough, key=lambda one: len(one.recipe.floating)), ranking
        return max(tried, key=closeness), ranking

    def _damage_of(self, recipe: QuantizationRecipe, cache: Cache) -> SingleLayers:
        """Tells SQNR in dB and minimum Dice with the reference of the parent with only some nodes quantised.

        On a few windows, in ONNX Runtime, as the graph is written. What was measured is kept, so that an interrupted
        ranking goes on.
        """
        windows = tuple(range(0, len(self.judge.windows), max(1, len(self.judge.windows) // _QUICK)))[:_QUICK]
        runtime = TrialRuntime("onnxruntime", optimise=False, threads=self.runtime.threads)
        about = {**asdict(recipe), "patches": self.calibration.digest, "judged": self.judge.windows.digest}
        about |= {"model": self.parent.manifest.sha256, "windows": list(windows), "floating": []}
        about |= {"figures": "SQNR, Dice with the reference"}  # older ones had a share of true Dice in its place

        def damage(nodes: tuple[str, ...]) -> tuple[float, float]:
            key = {**about, "nodes": list(nodes)}
            figures = cache.load("damage", key)
            if figures is None:
                figures = measured(nodes)
                cache.save("damage", key, figures)
            return float(figures[0]), float(figures[1])

        def measured(nodes: tuple[str, ...]) -> tuple[float, float]:
            import onnx

            path = self.folder / "single.onnx"
            onnx.save(qdq(self.model, self.calibration.ranges(), recipe, only=nodes), str(path))
            self.count += 1
            with runtime.open(_described(self.parent, path).path) as session:
                verdict = self.judge.judge(session, windows)
            return max(verdict.agreement.sqnr_db, _LOST), verdict.dice

        return damage

    def timed(self, candidates: Sequence[QuantizedCandidate], patch: Patches) -> list[QuantizedCandidate]:
        """The candidates with their speed, all measured in turn with the FP32 parent in the same runtime.

        Not where the graph is computed as it is written, which nobody would run, and none whose runtime failed.
        """
        able = [one for one in candidates if one.verdict.agreement.finite and self.runtime.optimise]
        if not able:
            return list(candidates)
        with ExitStack() as stack:
            paths = {"": self.parent.path, **{str(one.artifact.path): one.artifact.path for one in able}}
            sessions = {name: stack.enter_context(self.runtime.open(path)) for name, path in paths.items()}
            calls = {name: partial(session.run, patch) for name, session in sessions.items()}
            latency = interleaved(calls, rounds=ROUNDS, warm_up_s=0.2)
        speeds = {}
        for name in latency.keys() - {""}:
            speeds[name] = Speed.of(self.runtime.backend, latency[name], latency[""])
        return [replace(one, speed=speeds.get(str(one.artifact.path))) for one in candidates]


def _described(parent: Artifact, path: Path, companions: Sequence[str] = ()) -> Artifact:
    """A candidate with a manifest beside it, as every session wants."""
    manifest = parent.manifest.child(
        precision="int8",
        sha256=sha256(path),
        operators=operators(read(path)) if path.suffix == ".onnx" else dict(parent.manifest.operators),
        companions={suffix: sha256(path.with_suffix(suffix)) for suffix in companions},
    )
    manifest.write(manifest_path(path))
    return Artifact(path, manifest)


def install(artifact: Artifact, path: Path) -> Artifact:
    """The artifact at its place, its companions with it: all of them, or none."""
    with writing(path) as files:
        return move_into(files, artifact, path)
