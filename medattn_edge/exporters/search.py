"""Which values of a checkpoint's open settings give the logits that its owner's code gave."""

from __future__ import annotations

import copy
import heapq
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from medattn_edge.agreement import LogitsDistance
from medattn_edge.errors import AgreementError, CheckpointError, ShapeError, UsageError
from medattn_edge.exporters.departure import Departure, describe_departure
from medattn_edge.exporters.expectation import Array, Expectation
from medattn_edge.models import network_record
from medattn_edge.models.checkpoint import Checkpoint
from medattn_edge.models.network import SegmentationNetwork

# Four times the distance that eager FP32 itself has from FP64: another runtime sums in another order.
MARGIN_DB = 12.04
# Nearer than this is not asked: an owner's GPU is 100 to 110 dB from FP64 where a CPU is 140, and no open setting that
# makes a difference at all comes so near (an eps of 1e-3 for 1e-5 stays below 90 dB).
MOST_ASKED_DB = 100.0
# Below this nothing passes, however ill-conditioned: 1 part in 1000 is TF32, and a wrong eps is as near as that.
FLOOR_DB = 60.0
LIMIT = 300
_ALTERNATIVES = 12  # values of one setting that are tried to see whether it makes a difference

Config = dict[str, Any]
Progress = Callable[[int, Config], None]


@dataclass(frozen=True)
class CaseFit:
    """How near one expectation is.

    Attributes:
        source: of the expectation.
        sqnr_db: of the owner's logits to the network in FP64.
        eager_db: of the network in FP32 to itself in FP64: its own noise.
        required_db: what was asked.
        max_abs: the largest difference of a logit from FP64.
    """

    source: str
    sqnr_db: float
    eager_db: float
    required_db: float
    max_abs: float

    @property
    def passes(self) -> bool:
        """Whether it is near enough."""
        return self.sqnr_db >= self.required_db


@dataclass(frozen=True)
class Fitted:
    """Settings that give the owner's logits.

    Attributes:
        checkpoint: with these settings; what they prove is no assumption any more.
        cases: how near each expectation is.
        tried: combinations of settings that were run, those to see which settings matter included.
        proven: settings of which no other value that was tried gives the logits.
        indifferent: settings of which another value gives them too: on these inputs they make no difference, and they
            stay assumptions.
    """

    checkpoint: Checkpoint
    cases: tuple[CaseFit, ...]
    tried: int
    proven: Mapping[str, Any]
    indifferent: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """For a manifest: plain JSON values."""
        return {
            "cases": [vars(case) for case in self.cases],
            "tried": self.tried,
            "proven": dict(self.proven),
            "indifferent": dict(self.indifferent),
        }


@dataclass
class _Trial:
    """One combination: how far it is from the expectations, and from what they look like otherwise."""

    config: Config
    departures: list[Departure] = field(default_factory=list)

    @property
    def sqnr_db(self) -> float:
        """Of the worst case."""
        return min(one.sqnr_db for one in self.departures)

    @property
    def score(self) -> tuple[int, float]:
        """How many cases it came to, and in dB how near the worst is, what can be explained included."""
        return len(self.departures), min(one.best_db for one in self.departures)


def fit(
    checkpoint: Checkpoint,
    expectations: Sequence[Expectation],
    *,
    limit: int = LIMIT,
    progress: Progress | None = None,
) -> Fitted:
    """Find the open settings with which the checkpoint's network gives all the expected logits.

    What the checkpoint assumes is tried first, then other values of the settings that are assumptions: few changes
    before many, usual values before rare ones. Settings that the caller gave stay.

    Args:
        checkpoint: of a file; its assumptions are what may change.
        expectations: at least one.
        limit: combinations to try at most.
        progress: called with the number and the settings of each trial.

    Raises:
        AgreementError: none gives them; says which comes nearest and where it departs.
        ShapeError: an expectation is of another network, or of a size that it takes with no settings.
    """
    if not expectations:
        raise UsageError("no expectation", expected="at least one", hint="--expect case.npz")
    for one in expectations:
        one.check_network(checkpoint)
    tried, taken = 0, False
    nearest: _Trial | None = None
    refusal: ShapeError | None = None
    for config in _combinations(checkpoint):
        network = _network(checkpoint, config)
        try:
            for one in expectations:
                network.check_shape(one.images.shape[2:])
        except ShapeError as error:
            refusal = refusal or error
            continue
        taken = True
        if tried == limit:
            break
        tried += 1
        if progress is not None:
            progress(tried, config)
        trial = _try(network, config, expectations)
        cases = _prove(network, expectations) if trial.sqnr_db >= FLOOR_DB - MARGIN_DB else []
        if cases and all(case.passes for case in cases):
            return _fitted(checkpoint, config, tuple(cases), expectations, tried)
        if nearest is None or trial.score > nearest.score:
            nearest = trial
        if trial.departures[-1].is_conclusive:
            break
    if nearest is None:
        if refusal is not None and not taken:
            raise ShapeError(f"{expectations[0].source}: {refusal.found}", expected=refusal.expected, hint=refusal.hint)
        raise UsageError("a limit of 0 combinations", expected="at least 1", hint=f"--expect-limit {LIMIT}")
    raise _none_agrees(checkpoint, nearest, expectations, tried, stopped=tried == limit)


def _combinations(checkpoint: Checkpoint) -> Iterator[Config]:
    """Settings of the assumptions, the current ones first, then by the sum of their candidates' ranks."""
    record = network_record(checkpoint.spec.network)
    base = {**record.settings, **checkpoint.spec.config}
    free = set(checkpoint.assumptions)
    fixed = set(record.open_settings(base)) - free
    order = itertools.count()
    queue: list[tuple[int, int, Config]] = [(0, next(order), {})]
    seen = {_key({})}
    while queue:
        cost, _, changes = heapq.heappop(queue)
        yield changes
        for name, candidates in record.open_settings({**base, **changes}).items():
            if name in fixed or name in changes:
                continue
            ranked = [value for value in candidates if value != base[name]]
            for rank, value in enumerate(ranked, start=1):
                following = {**changes, name: value}
                if _key(following) not in seen:
                    seen.add(_key(following))
                    heapq.heappush(queue, (cost + rank + 1, next(order), following))


def _key(config: Config) -> str:
    return json.dumps(config, sort_keys=True)


def _network(checkpoint: Checkpoint, config: Config) -> SegmentationNetwork:
    return checkpoint.with_settings(config).network if config else checkpoint.network


def _try(network: SegmentationNetwork, config: Config, expectations: Sequence[Expectation]) -> _Trial:
    """FP32 on every expectation, until one is hopeless."""
    trial = _Trial(config)
    for one in expectations:
        trial.departures.append(Departure.between(run(network, one.images), one.logits))
        if trial.sqnr_db < FLOOR_DB - MARGIN_DB:
            break
    return trial


def _prove(network: SegmentationNetwork, expectations: Sequence[Expectation]) -> list[CaseFit]:
    """Every expectation against FP64, until one does not pass."""
    cases: list[CaseFit] = []
    for one in expectations:
        exact = run(network, one.images, torch.float64)
        own, owners = LogitsDistance(), LogitsDistance()
        own.add(exact, run(network, one.images))
        owners.add(exact, one.logits)
        required = max(FLOOR_DB, min(MOST_ASKED_DB, own.sqnr_db - MARGIN_DB))
        cases.append(CaseFit(one.source, owners.sqnr_db, own.sqnr_db, required, owners.max_abs))
        if not cases[-1].passes:
            break
    return cases


@torch.inference_mode()
def run(network: SegmentationNetwork, images: Array, kind: torch.dtype = torch.float32) -> Any:
    """Logits (N, K, *patch) of images, one at a time, computed in this precision."""
    module = copy.deepcopy(network).to(kind) if kind != torch.float32 else network
    answers = [module(torch.from_numpy(one[None]).to(kind)).numpy() for one in images]
    return np.concatenate(answers)


def _fitted(
    checkpoint: Checkpoint,
    config: Config,
    cases: tuple[CaseFit, ...],
    expectations: Sequence[Expectation],
    tried: int,
) -> Fitted:
    """The result, after a look at which settings make a difference."""
    found = checkpoint.with_settings(config) if config else checkpoint
    record = network_record(found.spec.network)
    proven: Config = {}
    indifferent: Config = {}
    fixed = set(record.open_settings({**record.settings, **checkpoint.spec.config})) - set(checkpoint.assumptions)
    for name, candidates in record.open_settings(dict(found.spec.config)).items():
        if name in fixed:
            continue
        value = found.spec.config[name]
        others = [one for one in candidates if one != value][:_ALTERNATIVES]
        same = False
        for other in others:
            answer = _passes(found, {name: other}, expectations)
            tried += answer is not None
            same = same or bool(answer)
            if same:
                break
        (indifferent if same else proven)[name] = value
    settled = found.with_settings(proven) if proven else found
    fitted = Fitted(settled, cases, tried, proven, indifferent)
    return replace(fitted, checkpoint=replace(settled, assumptions=dict(indifferent), expectation=fitted.to_json()))


def _passes(checkpoint: Checkpoint, config: Config, expectations: Sequence[Expectation]) -> bool | None:
    """Whether other settings give the logits too; None when they cannot take the images."""
    try:
        network = _network(checkpoint, config)
        trial = _try(network, config, expectations)
    except (ShapeError, CheckpointError):
        return None
    if trial.sqnr_db < FLOOR_DB - MARGIN_DB:
        return False
    return all(case.passes for case in _prove(network, expectations))


def _none_agrees(
    checkpoint: Checkpoint, nearest: _Trial, expectations: Sequence[Expectation], tried: int, stopped: bool
) -> AgreementError:
    worst = min(range(len(nearest.departures)), key=lambda index: nearest.departures[index].best_db)
    one, departure = expectations[worst], nearest.departures[worst]
    settings = {name: checkpoint.spec.config.get(name) for name in checkpoint.assumptions} | nearest.config
    named = "; ".join(f"{key}={json.dumps(value)}" for key, value in settings.items()) or "no open settings"
    count = f"{tried} combination{'s' if tried > 1 else ''} of settings"
    what, hint = describe_departure(departure, one)
    if stopped and departure.best_db < FLOOR_DB:
        hint = f"--expect-limit {4 * tried}, or {hint}"
    return AgreementError(
        f"none of {count} gives the logits of {one.source}; nearest is {named} with {departure.sqnr_db:.1f} dB: {what}",
        expected=f"at least {FLOOR_DB:g} dB, and {MARGIN_DB:.0f} dB within the network's own FP32 noise",
        hint=hint,
    )


__all__ = ["FLOOR_DB", "LIMIT", "CaseFit", "Fitted", "fit", "run"]
