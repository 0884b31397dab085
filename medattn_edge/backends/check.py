"""Two sessions on the same patches: what every step that makes an artifact is judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from medattn_edge.agreement import Agreement, LogitsDistance, Thresholds, of_labels
from medattn_edge.backends.session import Patches, Session
from medattn_edge.errors import AgreementError, UsageError
from medattn_edge.labels import Meaning

TOGETHER = 2  # patches of one run where the batch is free: enough to see that they do not mix, in little memory


class CachedReference(Session):
    """The reference, asked only once for the same patches: every candidate is held to the same answer."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.spec, batch=session.batch, fixed_patch=session.fixed_patch, facts=session.facts)
        self._session, self._known = session, dict[tuple[tuple[int, ...], bytes], Patches]()

    def _run(self, patches: Patches) -> Patches:
        key = (patches.shape, hashlib.sha256(patches.tobytes()).digest())
        if key not in self._known:
            self._known[key] = self._session.run(patches)
        return self._known[key].copy()


def on_patches(reference: Session, candidate: Session, patches: Patches) -> Agreement:
    """The agreement of two sessions on patches float32 (n, C, *patch), whatever their batches."""
    distance, expected_labels, found_labels = LogitsDistance(), [], []
    meaning = Meaning.of(reference.spec)
    step = candidate.batch or reference.batch or TOGETHER
    for start in range(0, len(patches), step):
        part = patches[start : start + step]
        expected, found = reference.run_any(part), candidate.run_any(part)
        distance.add(expected, found)
        expected_labels += [meaning.labels_of(one) for one in expected]
        found_labels += [meaning.labels_of(one) for one in found]
    return of_labels(np.stack(expected_labels), np.stack(found_labels), meaning, distance)


def check(
    reference: Session, candidate: Session, samples: Mapping[str, Patches], gates: Thresholds | Mapping[str, Thresholds]
) -> list[dict[str, Any]]:
    """One JSON-ready case per sample.

    Args:
        reference: what is right.
        candidate: what is judged.
        samples: name -> patches float32 (n, C, *patch).
        gates: for all samples, or by the sample's name.

    Raises:
        AgreementError: with every reason, when a sample does not reach its gate.
        UsageError: without a sample.
    """
    if not samples or any(len(patches) == 0 for patches in samples.values()):
        raise UsageError("no sample to check with", expected="real and random input", hint="--scan SCAN")
    cases, failures, thresholds = [], [], []
    for name, patches in samples.items():
        gate = gates if isinstance(gates, Thresholds) else gates[name]
        agreement = on_patches(reference, candidate, patches)
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
    return cases
