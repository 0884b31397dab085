"""Deliveries on record: results reach every destination, or are given up."""

from __future__ import annotations

import random

from medattn_edge.scanner.store.records import Delivery, Output, code
from medattn_edge.scanner.store.rows import Notes, StoreContext, move_delivery, settle
from medattn_edge.scanner.store.transitions import DeliveryState, State, TransitionRefused

DELIVERED_KINDS = frozenset({"seg", "rtstruct", "sr", "probabilities", "sc"})


class Deliveries:
    """From `segmented` to `delivered` or `failed`. Every method is one durable transaction, for any thread."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    def due(self, destination: str | None = None, limit: int = 100) -> tuple[Delivery, ...]:
        """Deliveries (to one destination) that may be tried now, those that wait for longest first.

        Each destination is for one thread: nothing marks a delivery as being under way.
        """
        now = self._context.clock()
        with self._context.database.reading() as database:
            rows = database.execute(
                "SELECT d.id, d.version_id, d.destination, d.attempts, v.key, v.version FROM deliveries d"
                " JOIN versions v ON v.id = d.version_id"
                " WHERE d.state = ? AND v.state = ? AND (d.next_try <= ? OR d.next_try > ?)"
                " AND d.destination = COALESCE(?, d.destination)"
                " ORDER BY d.next_try, d.id LIMIT ?",
                # Later than the longest pause: the clock was set back, and would hold it for that long.
                (
                    DeliveryState.WAITING,
                    State.SEGMENTED,
                    now,
                    now + self._context.policy.retry_max_s,
                    destination,
                    limit,
                ),
            ).fetchall()
            found = []
            for row in rows:
                outputs = database.execute(
                    "SELECT kind, name, sop_uid, sha256 FROM outputs WHERE version_id = ? ORDER BY name",
                    (row["version_id"],),
                )
                sent = tuple(Output(*one) for one in outputs if one["kind"] in DELIVERED_KINDS)
                found.append(Delivery(row["id"], row["key"], row["version"], row["destination"], row["attempts"], sent))
        return tuple(found)

    def record_delivered(self, delivery: Delivery) -> None:
        """Record that the destination has accepted every output.

        Raises TransitionRefused where that is on record already.
        """
        with self._context.database.writing() as database:
            notes: Notes = {"accepted": self._context.clock(), "reason": ""}
            settle(database, move_delivery(database, delivery, DeliveryState.DELIVERED, notes), self._context.clock())

    def record_failure(self, delivery: Delivery, reason: str) -> float | None:
        """Record that the destination did not take it. When it is tried again; None: it is given up now."""
        attempts = delivery.attempts + 1
        if attempts >= self._context.policy.delivery_attempts:
            self.give_up(delivery, reason)
            return None
        # To spread the attempts, and the same each time; nothing secret hangs on it.
        spread = random.Random(f"{self._context.policy.seed}:{delivery.id}:{attempts}").uniform(0.5, 1.0)  # noqa: S311
        # Above 2 ** 60 every pause is the longest one.
        pause = min(
            self._context.policy.retry_max_s, self._context.policy.retry_initial_s * 2.0 ** min(attempts - 1, 60)
        )
        next_try = self._context.clock() + spread * pause
        with self._context.database.writing() as database:
            changed = database.execute(
                "UPDATE deliveries SET attempts = ?, next_try = ?, reason = ? WHERE id = ? AND state = ?",
                (attempts, next_try, code(reason), delivery.id, DeliveryState.WAITING),
            )
            if changed.rowcount == 0:
                raise TransitionRefused("a delivery that has ended cannot fail")
        return next_try

    def give_up(self, delivery: Delivery, reason: str) -> None:
        """Try it no more: the delivery is dead. An operator can `requeue` it."""
        with self._context.database.writing() as database:
            notes: Notes = {"attempts": delivery.attempts + 1, "reason": code(reason)}
            settle(database, move_delivery(database, delivery, DeliveryState.DEAD, notes), self._context.clock())
