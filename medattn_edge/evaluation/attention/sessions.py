"""A session that also remembers what has no place on the scan's grid: channel attention, and a copy's own logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from medattn_edge.agreement import LogitsDistance
from medattn_edge.backends.session import Patches, Session

MAX_MATRICES = 1024  # windows whose channel attention is kept: 64 MiB where it has 64 channels and 4 scales


class ExplainedSession(Session):
    """Logits as one session gives them, maps as it or its copy gives them; the owner closes both.

    The number of patches of one run is free: a fixed batch is filled within, and what fills it is not counted.

    Attributes:
        matrix_names: of the channel attentions, empty where none are to be had.
        matrices: of every window until MAX_MATRICES, float32 (M, C, C).
        windows: how many there were.
        copy_distance: of the copy's logits from the session's; None without a copy.
    """

    def __init__(
        self, session: Session, names: tuple[str, ...], *, copy: Session | None = None, channels: int = 0
    ) -> None:
        """Join them.

        Args:
            session: whose labels count.
            names: of the maps with a place in space; what follows them in a session's or copy's maps are matrices.
            copy: gives the maps that the session does not.
            channels: the C of the matrices C x C.
        """
        super().__init__(session.spec, fixed_patch=session.fixed_patch, attention_names=names, facts={**session.facts})
        self._session, self._copy, self._channels = session, copy, channels
        self.matrix_names = (session if copy is None else copy).attention_names[len(names) :]
        self.matrices: list[Patches] = []
        self.windows = 0
        self.copy_distance = None if copy is None else LogitsDistance()

    def _run(self, patches: Patches) -> Patches:
        return self._session.run_any(patches)

    def _run_with_attention(self, patches: Patches) -> tuple[Patches, Patches]:
        count = len(self.attention_names)
        if self._copy is None or self.copy_distance is None:
            logits, maps = self._session.run_any_with_attention(patches)
            self._keep(maps[:, count:])
            return logits, np.ascontiguousarray(maps[:, :count])
        copied, maps = self._copy.run_any_with_attention(patches)
        self._keep(maps[:, count:])
        if self._session.attention_names:
            logits, maps = self._session.run_any_with_attention(patches)
        else:
            logits = self._session.run_any(patches)
        self.copy_distance.add(logits, copied)
        return logits, np.ascontiguousarray(maps[:, :count])

    def _keep(self, padded: Patches) -> None:
        """The matrices of a run, from the corners that they travel in."""
        self.windows += len(padded)
        if padded.shape[1]:
            room = MAX_MATRICES - len(self.matrices)
            self.matrices += [np.array(one) for one in padded[:room, :, : self._channels, : self._channels]]

    def copy_facts(self) -> Mapping[str, Any] | None:
        """How near the copy's logits were, as plain values; None without a copy."""
        distance = self.copy_distance
        return None if distance is None else {"sqnr_db": distance.sqnr_db, "max_abs": distance.max_abs}
