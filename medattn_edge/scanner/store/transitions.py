"""The states of a series version and of a delivery, and the only ways between them."""

from __future__ import annotations

from typing import Final

from medattn_edge.newer_python import StrEnum


class State(StrEnum):
    """The state of one version of a series."""

    RECEIVING = "receiving"
    QUEUED = "queued"
    JOINED = "joined"
    RUNNING = "running"
    SEGMENTED = "segmented"
    DELIVERED = "delivered"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    SUPERSEDED = "superseded"


class DeliveryState(StrEnum):
    """The state of the delivery of one version to one destination."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"


class TransitionRefused(RuntimeError):
    """A change of state that the table does not have: a bug, never a fault of the data."""


# The database refuses every other change as well: it has this table, and triggers that look into it.
TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    # quiet for long enough; more than the limits allow, or a file that vanished
    State.RECEIVING: frozenset({State.QUEUED, State.QUARANTINED}),
    # claimed; a channel of a study's job; an image arrived after all; a file that vanished, or claimed too often
    State.QUEUED: frozenset({State.RUNNING, State.JOINED, State.SUPERSEDED, State.QUARANTINED}),
    # what becomes of it is told of the study; a model of its own takes it after all; files vanished before the job ran
    State.JOINED: frozenset({State.QUEUED, State.QUARANTINED}),
    # the result is on disk; once more, after a failure or a restart; an image arrived after all; nothing to be done
    State.RUNNING: frozenset({State.SEGMENTED, State.QUEUED, State.SUPERSEDED, State.QUARANTINED}),
    # every destination has it; one never took it; the result vanished and is made again, under the same identity
    State.SEGMENTED: frozenset({State.DELIVERED, State.FAILED, State.QUEUED}),
    State.DELIVERED: frozenset(),
    # an operator has the dead deliveries tried again
    State.FAILED: frozenset({State.SEGMENTED}),
    # an operator has it tried again; an image arrived that may be what was missing
    State.QUARANTINED: frozenset({State.QUEUED, State.SUPERSEDED}),
    State.SUPERSEDED: frozenset(),
}
DELIVERY_TRANSITIONS: Final[dict[DeliveryState, frozenset[DeliveryState]]] = {
    DeliveryState.WAITING: frozenset({DeliveryState.DELIVERED, DeliveryState.DEAD}),
    DeliveryState.DELIVERED: frozenset(),
    DeliveryState.DEAD: frozenset({DeliveryState.WAITING}),
}
BIRTH: Final = State.RECEIVING
DELIVERY_BIRTH: Final = DeliveryState.WAITING


def check(before: State, after: State) -> None:
    """Raise TransitionRefused unless a version may go from one state to the other."""
    if after not in TRANSITIONS[before]:
        raise TransitionRefused(f"a version cannot go from {before} to {after}")


def check_delivery(before: DeliveryState, after: DeliveryState) -> None:
    """Raise TransitionRefused unless a delivery may go from one state to the other."""
    if after not in DELIVERY_TRANSITIONS[before]:
        raise TransitionRefused(f"a delivery cannot go from {before} to {after}")


def is_superseded_by_a_late_image(state: State) -> bool:
    """Whether a version in this state makes way for the next one when an image arrives after it was complete.

    What has a result keeps it and goes on being delivered: its identity comes from its own set of instances.
    """
    return State.SUPERSEDED in TRANSITIONS[state]
