"""Two sessions on the same patches: what every step that makes an artifact is judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.agreement import Agreement, LogitsDistance, Thresholds, of_labels, true_dice
from medattn_edge.backends.session import Patches, Session
from medattn_edge.errors import AgreementError, ScanError, UsageError
from medattn_edge.labels import Meaning

Doubles = npt.NDArray[np.float64]
TOGETHER = 2  # patches of one run where the batch is free: enough to see that they do not mix, in little memory
NO_LABEL = "no label is found on real input by either network, so there is nothing to hold to a Dice"
IN_FP64 = 1  # patches of each sample: FP64 costs several times what FP32 does, and noise is much the same in all


class CachedReference(Session):
    """The reference, asked only once for the same patches: every candidate is held to the same answer."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.spec, batch=session.batch, fixed_patch=session.fixed_patch, facts=session.facts)
        self._session, self._known = session, dict[tuple[tuple[int, ...], bytes], Patches]()
        self._known_in_fp64: dict[tuple[tuple[int, ...], bytes], Doubles | None] = {}

    def run_in_fp64(self, patches: Patches) -> Doubles | None:
        """As the session's own."""
        key = _content(patches)
        if key not in self._known_in_fp64:
            self._known_in_fp64[key] = self._session.run_in_fp64(patches)
        return self._known_in_fp64[key]

    def _run(self, patches: Patches) -> Patches:
        key = _content(patches)
        if key not in self._known:
            self._known[key] = self._session.run(patches)
        return self._known[key].copy()


def _content(patches: Patches) -> tuple[tuple[int, ...], bytes]:
    return patches.shape, hashlib.sha256(patches.tobytes()).digest()


def on_patches(
    reference: Session, candidate: Session, patches: Patches, truth: npt.NDArray[Any] | None = None
) -> Agreement:
    """The agreement of two sessions on patches, whatever their batches.

    Args:
        reference: what is right.
        candidate: what is judged.
        patches: float32 (n, C, *patch).
        truth: true labels (n, *patch) in the network's own values; of a masked array only what is not masked is judged.

    Returns:
        Their agreement, with the true Dice of both where there is a truth.
    """
    distance, expected_labels, found_labels = LogitsDistance(), [], []
    meaning = Meaning.of(reference.spec)
    step = candidate.batch or reference.batch or TOGETHER
    for start in range(0, len(patches), step):
        part = patches[start : start + step]
        expected, found = reference.run_any(part), candidate.run_any(part)
        distance.add(expected, found)
        expected_labels += [meaning.labels_of(one) for one in expected]
        found_labels += [meaning.labels_of(one) for one in found]
    agreement = of_labels(np.stack(expected_labels), np.stack(found_labels), meaning, distance)
    if truth is None:
        return agreement
    judged = ~np.ma.getmaskarray(truth)
    right = np.ma.getdata(truth)[judged]
    before, after = (true_dice(right, np.stack(one)[judged], meaning) for one in (expected_labels, found_labels))
    return replace(agreement, reference_dice=before, candidate_dice=after)


def with_fp64(agreement: Agreement, reference: Session, candidate: Session, patches: Patches) -> Agreement:
    """The agreement with both sessions' distances from FP64 on the first IN_FP64 patches, where they are known."""
    part = patches[:IN_FP64]
    exact = reference.run_in_fp64(part)
    if exact is None or not np.isfinite(exact).all():
        return agreement
    own, other = LogitsDistance(), LogitsDistance()
    own.add(exact, reference.run_any(part))
    other.add(exact, candidate.run_any(part))
    if not own.finite:
        return agreement
    return replace(agreement, fp64_sqnr_db=other.sqnr_db, reference_fp64_sqnr_db=own.sqnr_db)


def check(
    reference: Session, candidate: Session, samples: Mapping[str, Patches], gates: Thresholds | Mapping[str, Thresholds]
) -> list[dict[str, Any]]:
    """One JSON-ready case per sample.

    A gate that knows of the network's own noise is held to it where the reference can be computed in FP64: once for
    each sample, on its first patch.

    Args:
        reference: what is right.
        candidate: what is judged.
        samples: name -> patches float32 (n, C, *patch).
        gates: for all samples, or by the sample's name.

    Raises:
        AgreementError: with every reason, when a sample does not reach its gate.
        ScanError: a gate asks for a Dice, and neither session finds a label in any sample that it is for.
        UsageError: without a sample.
    """
    if not samples or any(len(patches) == 0 for patches in samples.values()):
        raise UsageError("no sample to check with", expected="real and random input", hint="--scan SCAN")
    cases, failures, thresholds, judged = [], [], [], list[bool]()
    for name, patches in samples.items():
        gate = gates if isinstance(gates, Thresholds) else gates[name]
        agreement = on_patches(reference, candidate, patches)
        if gate.max_noise_gain_db is not None:
            agreement = with_fp64(agreement, reference, candidate, patches)
            own = agreement.reference_fp64_sqnr_db
            gate = gate.without_fp64() if own is None else gate.given_noise(own)
        judged += [bool(agreement.dice)] if gate.min_dice is not None else []
        failures += [f"on {name} input {reason}" for reason in gate.failures(agreement)]
        thresholds += [
            text for text in (f"{key} {value:g}" for key, value in gate.to_json().items()) if text not in thresholds
        ]
        cases.append({"input": name, "patches": len(patches), "thresholds": gate.to_json(), **agreement.to_json()})
    if failures:
        raise AgreementError(
            f"the {candidate.facts.get('backend', 'new')} network does not agree with "
            f"{reference.facts.get('backend', 'its reference')}: " + "; ".join(failures),
            expected=", ".join(thresholds),
            hint="nothing was written; medattn-edge compare shows where they part",
        )
    if judged and not any(judged):
        raise ScanError(
            NO_LABEL,
            expected=f"a voxel of {' or '.join(Meaning.of(reference.spec).structures)} in the patches of a scan",
            hint="--scan SCAN, with something in it that the network finds",
        )
    return cases
