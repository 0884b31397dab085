"""Mirroring: every patch is shown mirrored too, and the logits, mirrored back, averaged (test-time augmentation)."""

from __future__ import annotations

import itertools

import numpy as np

from medattn_edge.backends.session import Patches, Session
from medattn_edge.spec import ModelSpec


def mirrored(session: Session) -> Session:
    """A session that mirrors as its spec says; the session itself when that is not at all.

    The other session stays its owner's to close. It is run in its own batch, 2 to the power of the axes times for each.
    """
    return _Mirrored(session) if session.spec.mirror else session


def mirrored_forms(spec: ModelSpec) -> tuple[tuple[int, ...], ...]:
    """The axes of a batch (N, C, *patch) that each form is mirrored along, the first being none."""
    axes = [2 + place for place, letter in enumerate(spec.axes) if letter in spec.mirror]
    return tuple(form for count in range(len(axes) + 1) for form in itertools.combinations(axes, count))


class _Mirrored(Session):
    def __init__(self, session: Session) -> None:
        super().__init__(
            session.spec,
            batch=session.batch,
            fixed_patch=session.fixed_patch,
            attention_names=session.attention_names,
            facts={**session.facts, "mirror": session.spec.mirror},
        )
        self.in_flight = session.in_flight
        self._session, self._forms = session, mirrored_forms(session.spec)

    def _run(self, patches: Patches) -> Patches:
        def run(form: tuple[int, ...]) -> Patches:
            return np.flip(self._session.run(np.flip(patches, form)), form)

        logits = np.array(run(self._forms[0]))
        for form in self._forms[1:]:
            logits += run(form)
        return logits / np.float32(len(self._forms))

    def _run_with_attention(self, patches: Patches) -> tuple[Patches, Patches]:
        def run(form: tuple[int, ...]) -> list[Patches]:
            return [np.flip(one, form) for one in self._session.run_with_attention(np.flip(patches, form))]

        logits, maps = map(np.array, run(self._forms[0]))
        for form in self._forms[1:]:
            more_logits, more_maps = run(form)
            logits += more_logits
            maps += more_maps
        count = np.float32(len(self._forms))
        return logits / count, maps / count
