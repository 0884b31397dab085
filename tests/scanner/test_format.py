"""What the page says of times and results, in words that a person takes in at a glance."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from medattn_edge.scanner.observe.format import counted, outcome, seconds, took, until
from medattn_edge.scanner.store.snapshot import DeliverySeen, VersionSeen
from medattn_edge.scanner.store.transitions import DeliveryState, State


def version(state: State, times: Mapping[str, float], deliveries: tuple[DeliverySeen, ...] = ()) -> VersionSeen:
    return VersionSeen("key", 1, state, "CT", 3, 1, "", "", "", times, deliveries)


def delivery(destination: str, state: DeliveryState) -> DeliverySeen:
    return DeliverySeen(destination, state, 1, 0.0, None, "")


def test_a_result_is_named_with_every_place_that_has_it_waits_for_it_or_never_took_it() -> None:
    sent = (
        delivery("pacs", DeliveryState.DELIVERED),
        delivery("archive", DeliveryState.DEAD),
        delivery("viewer", DeliveryState.WAITING),
        delivery("folder", DeliveryState.DELIVERED),
    )
    told = outcome(version(State.SEGMENTED, {}, sent))
    assert told == "at pacs, folder; waits for viewer; given up: archive"
    assert outcome(version(State.SEGMENTED, {}, sent[1:2])) == "given up: archive"
    assert outcome(version(State.QUEUED, {})) == "-"


def test_the_time_taken_is_from_the_last_object_to_the_result_or_of_the_work_so_far() -> None:
    assert took(version(State.SEGMENTED, {"last_received": 10.0, "segmented": 14.5}), 100.0) == "4.5 s"
    assert took(version(State.RUNNING, {"last_received": 10.0, "claimed": 70.0}), 100.0) == "30 s so far"
    assert took(version(State.QUEUED, {"claimed": 70.0}), 100.0) == "-"
    assert (
        took(version(State.SEGMENTED, {"last_received": 10.0, "segmented": 9.0}), 100.0) == "0.0 s"
    )  # a clock went back


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (9.94, "9.9 s"), (10, "10 s"), (119, "119 s"), (120, "2 min"), (7_199, "120 min"), (7_200, "2 h"),
        (172_799, "48 h"), (172_800, "2 d"), (float("nan"), "-"),
    ],
)  # fmt: skip
def test_a_time_has_the_unit_that_keeps_it_short(value: float, told: str) -> None:
    assert seconds(value) == told


def test_a_time_to_come_is_now_once_it_is_there() -> None:
    assert (until(100.0, 100.0), until(101.5, 100.0)) == ("now", "in 1.5 s")


def test_thousands_are_marked_and_one_is_singular() -> None:
    assert (counted(1, "series", "series"), counted(2_000, "object", "objects")) == ("1 series", "2,000 objects")
