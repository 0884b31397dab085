"""Pauses between attempts: they double, they are bounded, and a clock that is set by hand shows both."""

from __future__ import annotations

import math
from pathlib import Path

from medattn_edge.scanner.store.records import Policy
from tests.support.durable_node import Node

FIRST, LONGEST = 5.0, 900.0


def pauses(folder: Path, attempts: int, seed: int = 0, first: float = FIRST, longest: float = LONGEST) -> list[float]:
    """The pauses of a delivery that fails so often."""
    policy = Policy(quiet_s=60, retry_initial_s=first, retry_max_s=longest, delivery_attempts=attempts + 1, seed=seed)
    node = Node(folder, policy)
    node.segment(node.job(), "pacs")
    found = []
    for _ in range(attempts):
        [delivery] = node.store.deliveries.due("pacs")
        again = node.store.deliveries.record_failure(delivery, "no_connection")
        assert again is not None
        found.append(again - node.now)
        node.now = again - 1e-3
        assert node.store.deliveries.due("pacs") == ()
        node.now = again
    node.store.close()
    return found


def test_a_pause_doubles_until_it_is_the_longest_and_chance_takes_half_at_most(tmp_path: Path) -> None:
    by_attempt = [pauses(tmp_path / str(seed), 10, seed) for seed in range(12)]
    for attempt, found in enumerate(zip(*by_attempt, strict=True)):
        whole = min(LONGEST, FIRST * 2**attempt)
        assert all(whole / 2 <= pause <= whole for pause in found), attempt
        assert min(found) < 0.7 * whole  # by chance, so that a hundred nodes do not come at once
        assert max(found) > 0.8 * whole


def test_the_same_seed_gives_the_same_pauses_and_each_attempt_its_own(tmp_path: Path) -> None:
    one, again, other = (pauses(tmp_path / name, 12, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert one == again != other
    assert len({round(pause / LONGEST, 9) for pause in one[8:]}) == 4


def test_a_pause_of_the_thousandth_attempt_is_a_number(tmp_path: Path) -> None:
    found = pauses(tmp_path / "node", 70, first=1e-6, longest=1e300)
    assert all(math.isfinite(pause) for pause in found)
    node = Node(tmp_path / "other", Policy(quiet_s=60, retry_initial_s=FIRST, delivery_attempts=10_000))
    node.segment(node.job(), "pacs")
    with node.store.database.writing() as database:
        database.execute("UPDATE deliveries SET attempts = 5000")
    [delivery] = node.store.deliveries.due("pacs")
    again = node.store.deliveries.record_failure(delivery, "no_connection")
    assert again is not None
    assert LONGEST / 2 <= again - node.now <= LONGEST
    node.store.close()
