"""The store's third part: results reach every destination, or a dead letter says which they did not reach."""

from __future__ import annotations

import random

from medattn_edge.scanner.store.records import Delivery, Output, code
from medattn_edge.scanner.store.rows import Notes, Rows, move_delivery
from medattn_edge.scanner.store.transitions import DeliveryState, State, TransitionRefused

DELIVERED_KINDS = frozenset({"seg", "sc"})


class Delivering(Rows):
    """From `segmented` to `delivered` or `failed`."""

    def deliveries_due(self, destination: str | None = None, limit: int = 100) -> tuple[Delivery, ...]:
        """Deliveries (to one destination) that may be tried now, those that wait for longest first.

        Each destination is for one thread: nothing marks a delivery as being under way.
        """
        with self.database.reading() as database:
            rows = database.execute(
                "SELECT d.id, d.version_id, d.destination, d.attempts, v.key, v.version FROM deliveries d"
                " JOIN versions v ON v.id = d.version_id"
                " WHERE d.state = ? AND v.state = ? AND d.next_try <= ? AND d.destination = COALESCE(?, d.destination)"
                " ORDER BY d.next_try, d.id LIMIT ?",
                (DeliveryState.WAITING, State.SEGMENTED, self.clock(), destination, limit),
            ).fetchall()
            found = []
            for row in rows:
                outputs = database.execute(
                    "SELECT kind, name, sop_uid FROM outputs WHERE version_id = ? ORDER BY name", (row["version_id"],)
                )
                sent = tuple(Output(*one) for one in outputs if one["kind"] in DELIVERED_KINDS)
                found.append(Delivery(row["id"], row["key"], row["version"], row["destination"], row["attempts"], sent))
        return tuple(found)

    def delivered(self, delivery: Delivery) -> None:
        """The destination has accepted every output. Raises TransitionRefused where that is on record already."""
        with self.database.writing() as database:
            notes: Notes = {"accepted": self.clock(), "reason": ""}
            self.settle(database, move_delivery(database, delivery, DeliveryState.DELIVERED, notes))

    def delivery_failed(self, delivery: Delivery, reason: str) -> float | None:
        """The destination did not take it. When it is tried again, or None: it is dead now."""
        attempts = delivery.attempts + 1
        if attempts >= self.policy.delivery_attempts:
            self.dead(delivery, reason)
            return None
        chance = random.Random(f"{self.policy.seed}:{delivery.id}:{attempts}").uniform(0.5, 1.0)
        # Above 2 ** 60 every pause is the longest one.
        pause = min(self.policy.most_retry_s, self.policy.first_retry_s * 2.0 ** min(attempts - 1, 60))
        next_try = self.clock() + chance * pause
        with self.database.writing() as database:
            changed = database.execute(
                "UPDATE deliveries SET attempts = ?, next_try = ?, reason = ? WHERE id = ? AND state = ?",
                (attempts, next_try, code(reason), delivery.id, DeliveryState.WAITING),
            )
            if changed.rowcount == 0:
                raise TransitionRefused("a delivery that has ended cannot fail")
        return next_try

    def dead(self, delivery: Delivery, reason: str) -> None:
        """The destination will not take it, and trying again would not help. An operator can `requeue` it."""
        with self.database.writing() as database:
            notes: Notes = {"attempts": delivery.attempts + 1, "reason": code(reason)}
            self.settle(database, move_delivery(database, delivery, DeliveryState.DEAD, notes))
