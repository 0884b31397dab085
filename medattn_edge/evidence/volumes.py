"""Bland and Altman's agreement of volumes (Lancet 1986): is a candidate's organ larger than the reference's?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from medattn_edge.evidence.records import Case, VolumeAgreement

MIN_CASES = 2  # a standard deviation takes two
_NORMAL = 1.96


def volume_agreements(cases: Sequence[Case]) -> tuple[VolumeAgreement, ...]:
    """One for each artifact, runtime and structure that two or more cases have; in the order of the runs.

    Args:
        cases: all in one unit, or else those in millilitres alone are taken.
    """
    units = {case.unit for case in cases}
    taken = [case for case in cases if len(units) == 1 or case.unit == "mm"]
    unit = "ml" if units and taken and taken[0].unit == "mm" else "voxels"
    runs = dict.fromkeys((run.artifact, run.backend) for case in taken for run in case.runs)
    names = dict.fromkeys(one.label for case in taken for run in case.runs for one in run.labels)
    found = []
    for (artifact, backend), name in product(runs, names):
        pairs = [
            (one.reference_volume, one.candidate_volume)
            for case in taken
            for run in case.runs
            if (run.artifact, run.backend) == (artifact, backend)
            for one in run.labels
            if one.label == name and (one.reference_volume or one.candidate_volume)
        ]
        if len(pairs) >= MIN_CASES:
            found.append(_agreement(artifact, backend, name, unit, pairs))
    return tuple(found)


def _agreement(
    artifact: str, backend: str, label: str, unit: str, pairs: Sequence[tuple[float, float]]
) -> VolumeAgreement:
    reference, candidate = np.array(pairs).T
    difference = candidate - reference
    bias, spread = float(difference.mean()), _NORMAL * float(difference.std(ddof=1))
    return VolumeAgreement(
        artifact=artifact,
        backend=backend,
        label=label,
        unit=unit,
        reference=tuple(reference.tolist()),
        candidate=tuple(candidate.tolist()),
        bias=bias,
        limits=(bias - spread, bias + spread),
        bias_percent=float((100 * difference / ((reference + candidate) / 2)).mean()),
    )
