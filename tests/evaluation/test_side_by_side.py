"""One reference and several candidates on one scan, in a single walk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medattn_edge.agreement import dice_per_label
from medattn_edge.errors import BackendError, ShapeError, UsageError
from medattn_edge.evaluation import ReferenceCache
from medattn_edge.evaluation.side_by_side import side_by_side
from medattn_edge.inference import SegmentSettings, segment
from medattn_edge.labels import Meaning
from medattn_edge.spec import Cleanup

Make = Callable[..., Any]
SETTINGS = SegmentSettings(batch=2)


@pytest.fixture
def volume(volume_of: Make) -> Any:
    return volume_of(np.random.default_rng(0).normal(size=(9, 14, 12)), (2.0, 1.0, 1.0))


def failing_after(runs: int, function: Callable[[Any], Any], error: Exception) -> Callable[[Any], Any]:
    """A network that raises from the given run on."""
    left = [runs]

    def answer(patches: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise error
        return function(patches)

    return answer


@pytest.mark.parametrize("settings", [{"patch": (8, 8)}, {"patch": (4, 8, 8), "spacing": (1.5, 1.2, 0.9)}])
def test_each_candidate_gets_what_a_comparison_of_its_own_gives(
    fake: Make, spec_of: Make, network: Make, volume: Any, settings: dict[str, Any]
) -> None:
    spec, function = spec_of(**settings), network(3)
    networks = {
        "same": function,
        "off": lambda patches: function(patches) + np.float32(0.25),
        "other": lambda patches: -function(patches),
    }
    reference = fake(spec, function)
    seen = side_by_side(reference, {name: fake(spec, one) for name, one in networks.items()}, volume, SETTINGS)
    assert not seen.failed
    for name, one in networks.items():
        own = side_by_side(reference, {"only": fake(spec, one)}, volume, SETTINGS)
        agreement, found = own.agreed["only"]
        assert seen.agreed[name][0] == agreement
        np.testing.assert_array_equal(seen.labels.voxels, own.labels.voxels)
        np.testing.assert_array_equal(seen.agreed[name][1].voxels, found.voxels)
        assert seen.agreed[name][1].affine.tobytes() == volume.affine.tobytes()
    assert seen.agreed["same"][0].max_abs == 0 < seen.agreed["off"][0].max_abs


@pytest.mark.parametrize("settings", [{"patch": (8, 8)}, {"patch": (4, 8, 8), "spacing": (1.5, 1.2, 0.9)}])
def test_each_session_has_the_windows_of_its_own_spec(
    fake: Make, spec_of: Make, network: Make, volume: Any, settings: dict[str, Any]
) -> None:
    """Slabs of other windows end at other rows; the rows that are compared are the same all the same."""
    spec, function, progress = spec_of(**settings), network(3), list[tuple[int, int]]()
    overlaps = {"0.75": 0.75, "0.5": 0.5, "0.25": 0.25, "0": 0.0}
    sessions = {name: fake(replace(spec, overlap=overlap), function) for name, overlap in overlaps.items()}
    reference = fake(spec, function)
    seen = side_by_side(
        reference, sessions, volume, SETTINGS, progress=lambda done, total: progress.append((done, total))
    )
    reference_labels = segment(reference, volume).labels.voxels
    for name, session in sessions.items():
        agreement, labels = seen.agreed[name]
        np.testing.assert_array_equal(labels.voxels, segment(session, volume).labels.voxels)
        assert agreement.dice == dice_per_label(reference_labels, labels.voxels, seen.meaning)
    found = {name: agreement for name, (agreement, _) in seen.agreed.items()}
    assert found["0.5"].max_abs == 0 < found["0.25"].max_abs
    assert found["0"].sqnr_db < 60
    assert {len(sessions[name].seen) for name in overlaps} != {len(reference.seen)}
    assert progress[-1][0] <= progress[-1][1]
    same = side_by_side(reference, sessions, volume, replace(SETTINGS, overlap=0.25))
    assert all(agreement.max_abs == 0 for agreement, _ in same.agreed.values())


def test_the_reference_runs_once_for_all(fake: Make, spec_of: Make, network: Make, volume: Any) -> None:
    spec, function, runs = spec_of((8, 8)), network(3), []

    def counted(patches: Any) -> Any:
        runs.append(len(patches))
        return function(patches)

    side_by_side(fake(spec, counted), {"a": fake(spec, function)}, volume, SETTINGS)
    alone = len(runs)
    runs.clear()
    side_by_side(fake(spec, counted), {name: fake(spec, function) for name in "abcd"}, volume, SETTINGS)
    assert len(runs) == alone > 1


@pytest.mark.parametrize("runs", [0, 1, 3])
def test_a_candidate_that_fails_is_left_behind_and_the_others_arrive(
    fake: Make, spec_of: Make, network: Make, volume: Any, runs: int
) -> None:
    spec, function = spec_of((8, 8)), network(3)
    error = BackendError("the runtime crashed: SIGSEGV", hint="another one")
    said: list[tuple[int, int]] = []
    seen = side_by_side(
        fake(spec, function),
        {"dies": fake(spec, failing_after(runs, function, error)), "lives": fake(spec, function)},
        volume,
        SETTINGS,
        lambda done, total: said.append((done, total)),
    )
    assert list(seen.failed) == ["dies"]
    assert seen.failed["dies"] is error
    assert list(seen.agreed) == ["lives"]
    assert seen.agreed["lives"][0].label_match == 1
    assert said == sorted(said)
    assert said[-1][0] == said[-1][1]


def test_the_failure_of_the_reference_and_a_bug_of_a_candidate_are_not_hidden(
    fake: Make, spec_of: Make, network: Make, volume: Any
) -> None:
    spec, function = spec_of((8, 8)), network(3)
    broken = fake(spec, failing_after(1, function, BackendError("out of memory", hint="-")))
    with pytest.raises(BackendError, match="out of memory"):
        side_by_side(broken, {"a": fake(spec, function)}, volume, SETTINGS)
    for error in (ShapeError("a shape", hint="-"), ZeroDivisionError()):
        with pytest.raises(type(error)):
            side_by_side(fake(spec, function), {"a": fake(spec, failing_after(1, function, error))}, volume, SETTINGS)


def test_a_candidate_that_sees_something_else_is_refused(fake: Make, spec_of: Make, network: Make, volume: Any) -> None:
    function = network(3)
    candidates = {"a": fake(spec_of((8, 8)), function), "b": fake(spec_of((16, 8)), function)}
    with pytest.raises(UsageError, match="--patch 8x8"):
        side_by_side(fake(spec_of((8, 8)), function), candidates, volume)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_both_sides_are_mirrored_and_cleaned_as_when_a_scan_is_segmented(
    fake: Make, spec_of: Make, network: Make, volume: Any, activation: str
) -> None:
    pytest.importorskip("scipy", reason="the extra cleanup is not installed")
    steps = tuple(map(Cleanup.parse, ("largest:label_2", "drop-below:label_1:100")))
    spec = spec_of((8, 8), activation=activation, cleanup=steps, mirror="W", spacing=(1.3, 0.9))
    function = network(3)

    def other(patches: Any) -> Any:
        return function(np.float32(1.1) * patches)

    seen = side_by_side(fake(spec, function), {"other": fake(spec, other)}, volume, SETTINGS)
    own = segment(fake(spec, other), volume)
    meaning = Meaning.of(spec)
    assert seen.meaning == own.meaning == meaning
    reference = segment(fake(spec, function), volume).labels.voxels
    agreement, labels = seen.agreed["other"]
    np.testing.assert_array_equal(seen.labels.voxels, reference)
    np.testing.assert_array_equal(labels.voxels, own.labels.voxels)
    assert agreement.dice == dice_per_label(reference, own.labels.voxels, meaning)
    assert 0 < min(agreement.dice.values()) < 1
    raw = segment(fake(replace(spec, cleanup=()), function), volume).labels.voxels
    assert (raw != reference).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "sigmoid"}, "activation is sigmoid; expected the reference's softmax"),
        ({"orientation": "RAS"}, "orientation is RAS; expected the reference's LPS"),
        ({"mirror": "W"}, "mirror is W; expected the reference's none"),
        ({"cleanup": (Cleanup("largest", "*"),)}, r"cleanup is largest:\*; expected the reference's none"),
    ],
)
def test_sides_that_do_not_mean_the_same_are_not_compared(
    fake: Make, spec_of: Make, network: Make, volume: Any, changes: dict[str, Any], message: str
) -> None:
    reference, candidate = (fake(spec_of((8, 8), **one), network(3)) for one in ({}, changes))
    with pytest.raises(UsageError, match=message):
        side_by_side(reference, {"other": candidate}, volume, SETTINGS)


def test_the_reference_is_run_once_for_several_comparisons_and_every_figure_stays(
    fake: Make, spec_of: Make, network: Make, volume: Any, tmp_path: Path
) -> None:
    progress: list[tuple[int, int]] = []
    for number, settings in enumerate(
        ({"patch": (8, 8)}, {"patch": (4, 8, 8), "spacing": (1.5, 1.2, 0.9)}, {"patch": (8, 4, 8), "axes": "HDW"})
    ):
        spec, function = spec_of(**settings), network(3)
        cache, reference = ReferenceCache(tmp_path / "cache", f"net {number}"), fake(spec, function)
        candidates = {"off": fake(spec, lambda patches, of=function: of(patches) + np.float32(0.25))}

        def run(cache: ReferenceCache | None, reference: Any = reference, of: Any = candidates) -> Any:
            reference.seen.clear()
            progress.clear()
            return side_by_side(reference, of, volume, SETTINGS, lambda *counts: progress.append(counts), cache)

        plain, first, again = run(None), run(cache), run(cache)
        assert reference.seen == []
        assert progress[-1][0] <= progress[-1][1]
        for found in (first, again):
            assert found.agreed["off"][0] == plain.agreed["off"][0]
            np.testing.assert_array_equal(found.labels.voxels, plain.labels.voxels)
        assert [path.suffix for path in sorted((tmp_path / "cache").glob("*"))] == [".npy", ".sha256"] * (number + 1)
        broken = fake(spec, failing_after(0, function, BackendError("gone", expected="", hint="")))
        assert set(run(cache, of={"broken": broken}).failed) == {"broken"}


@pytest.mark.parametrize("change", ["source", "spec", "overlap", "volume", "facts", "a byte", "no digest"])
def test_logits_of_anything_else_are_not_taken(
    fake: Make, spec_of: Make, network: Make, volume: Any, volume_of: Make, tmp_path: Path, change: str
) -> None:
    spec, function, settings, source = spec_of((8, 8)), network(3), SETTINGS, "net"

    def runs() -> int:
        reference = fake(spec, function)
        reference.facts |= {"threads": 1} if change == "facts" and source == "other" else {}
        cache = ReferenceCache(tmp_path, "net" if change != "source" else source)
        side_by_side(reference, {"same": fake(spec, function)}, volume, settings, cache=cache)
        return len(reference.seen)

    assert (runs() > 0, runs()) == (True, 0)
    source = "other"
    if change == "spec":
        spec = replace(spec, labels=("background", "a", "b"))
    elif change == "overlap":
        settings = replace(settings, overlap=0.25)
    elif change == "volume":
        volume = volume_of(volume.voxels + np.float32(1e-3), (2.0, 1.0, 1.0))
    elif change == "a byte":
        path = next(tmp_path.glob("*.npy"))
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif change == "no digest":
        next(tmp_path.glob("*.sha256")).unlink()
    assert runs() > 0
    assert runs() == 0


def test_what_cannot_be_kept_is_computed_again_and_nothing_is_left_of_it(
    fake: Make, spec_of: Make, network: Make, volume: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, function = spec_of((8, 8)), network(3)

    def runs(function: Any = function) -> int:
        reference = fake(spec, function)
        cache = ReferenceCache(tmp_path / "cache", "net")
        side_by_side(reference, {"same": fake(spec, network(3))}, volume, SETTINGS, cache=cache)
        return len(reference.seen)

    (tmp_path / "cache").write_text("a file, and no folder")
    assert runs() == runs() > 0
    (tmp_path / "cache").unlink()
    with pytest.raises(BackendError):
        runs(failing_after(12, function, BackendError("gone", expected="", hint="")))
    assert list((tmp_path / "cache").iterdir()) == []
    needed = 3 * 4 * volume.voxels.size
    for free, kept in ((2 * needed - 2, False), (2 * needed, True)):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr("medattn_edge.evaluation.reference_cache.shutil.disk_usage", lambda _, of=usage: of)
        assert runs() > 0
        assert bool(list((tmp_path / "cache").iterdir())) == kept
