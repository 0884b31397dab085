"""The whole candidate beside its own layers: what a runtime makes of all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medattn_edge.agreement import Agreement, LogitsDistance, of_labels
from medattn_edge.artifact import Artifact
from medattn_edge.backends.onnxruntime import OnnxRuntimeSession
from medattn_edge.backends.parts import Floats
from medattn_edge.backends.runtimes import Runtime
from medattn_edge.backends.session import Options
from medattn_edge.errors import BackendError
from medattn_edge.evaluation.bisect.chain import Chain
from medattn_edge.evaluation.bisect.figures import LayerFigures
from medattn_edge.gates import RUNTIME_GAP
from medattn_edge.labels import Meaning

_LIMITS = RUNTIME_GAP.limits


@dataclass(frozen=True)
class WholeOutcome:
    """What the whole candidate answered.

    Attributes:
        agreement: with the reference; None where it failed.
        apart_db: SQNR against its own layers one by one; None where it failed.
        failure: how it failed, empty when it did not.
    """

    agreement: Agreement | None
    apart_db: float | None
    failure: str = ""


def run_whole(
    reference: Artifact, candidate: Artifact, runtime: Runtime, runs: Sequence[Floats], chained: Sequence[Floats],
    limits: tuple[int, float],
) -> WholeOutcome:  # fmt: skip
    """Run both as a whole.

    Args:
        reference: an .onnx artifact, run as it is written.
        candidate: the artifact.
        runtime: of the candidate.
        runs: float32 (N, C, *patch).
        chained: the logits of the candidate's layers one by one, for each run; empty where nobody asks.
        limits: threads, and seconds for opening and for one run.
    """
    meaning, distance, apart = Meaning.of(reference.spec), LogitsDistance(), LogitsDistance()
    expected, found = list[Floats](), list[Floats]()
    with OnnxRuntimeSession(reference, Options(threads=limits[0], optimise=False)) as session:
        expected = [session.run(one) for one in runs]
    try:
        with runtime.open(candidate.path, *limits) as session:
            found = [session.run(one) for one in runs]
    except BackendError as error:
        return WholeOutcome(None, None, error.found)
    for right, answer in zip(expected, found, strict=True):
        distance.add(right, answer)
    for answer, parts in zip(found, chained, strict=bool(chained)):
        apart.add(answer, parts)
    right_labels, labels = (
        np.stack([meaning.labels_of(one) for run in answers for one in run]) for answers in (expected, found)
    )
    return WholeOutcome(of_labels(right_labels, labels, meaning, distance), apart.sqnr_db)


def lost_together(
    chain: Chain, figures: Sequence[LayerFigures], outcome: WholeOutcome, runs: list[Floats]
) -> LayerFigures | None:
    """The first layer up to which all run as one graph is worse than one by one; None where the whole is as good.

    Found by halving: a layer is run with all that lies before it, and nothing is asked for but its own outputs.
    """
    whole = -np.inf if outcome.agreement is None else outcome.agreement.sqnr_db
    if not figures or not _worse(whole, figures[-1].out_db):
        return None
    low, high = 0, len(figures) - 1  # the first that may be lost; one that is
    while low < high:
        middle = (low + high) // 2
        try:
            together = chain.prefix_db(figures[middle].layer, runs)
        except BackendError:
            together = -np.inf
        low, high = (low, middle) if _worse(together, figures[middle].out_db) else (middle + 1, high)
    return figures[low]


def _worse(together: float, one_by_one: float) -> bool:
    return min(one_by_one, _LIMITS["clip_db"]) - min(together, _LIMITS["clip_db"]) > _LIMITS["max_gap_db"]
