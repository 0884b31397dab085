"""How much of each label there is before a training, which one was not learnt after it, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.errors import ScanError
from medattn_edge.training import (
    Case,
    Epoch,
    Label,
    LabelAmount,
    Output,
    TrainingSettings,
    Watch,
    Wishes,
    choose_spec,
    duration,
    fit,
    initial_network,
)

LABELS = (Label(1, "large", (1,)), Label(2, "small", (2,)))
WISHES = Wishes("attention-unet-2d", {"width": 8}, patch=(32, 32))
SHORT = TrainingSettings(epochs=2, steps=1, batch=2)


def train(
    case: Case, path: Path, settings: TrainingSettings, watch: Watch, wishes: Wishes = WISHES
) -> dict[str, object]:
    spec, _ = choose_spec([case], LABELS, wishes)
    return dict(fit(initial_network(spec, 0), [case], spec, settings, Output(path), watch).notes)


def test_every_label_is_counted_before_the_first_step(case_of: Callable[..., Case], tmp_path: Path) -> None:
    case, said = case_of(spacing=(2.0, 1.0, 1.0)), list[object]()
    watch = Watch(lambda done, total: said.append(done), labels=said.extend)
    notes = train(case, tmp_path / "a.safetensors", SHORT, watch)
    large, small, *steps = said
    assert steps == [1, 2]
    assert isinstance(large, LabelAmount)
    assert isinstance(small, LabelAmount)
    voxels = int(np.count_nonzero(case.labels.voxels == 1))
    assert (large.index, large.name, large.voxels, large.scans) == (1, "large", voxels, 1)
    assert large.millilitres == pytest.approx(voxels * 2 / 1000)
    held_out = int(np.count_nonzero(case.labels.voxels[[6, 7, 8, 18, 19]] == 1))
    gaps = int(np.count_nonzero(case.labels.voxels[[5, 9, 17, 20]] == 1))
    assert (large.held_out_voxels, large.training_voxels) == (held_out, voxels - held_out - gaps)
    assert notes["labels"] == [large.to_json(), small.to_json()]


@pytest.mark.slow
def test_a_label_that_ends_at_a_dice_of_0_is_named(case_of: Callable[..., Case], tmp_path: Path) -> None:
    case = case_of()
    case = replace(case, scan=case.scan.with_voxels(np.where(case.labels.voxels == 2, 0, case.scan.voxels)))
    settings = replace(SHORT, steps=12, learning_rate=1e-2)  # the small ball is nowhere to be seen, the large one is
    notes = train(case, tmp_path / "a.safetensors", settings, Watch())
    assert notes["labels_without_overlap"] == ["small"]


def test_a_label_that_no_slice_at_the_networks_spacing_has_is_refused(
    case_of: Callable[..., Case], tmp_path: Path
) -> None:
    case = case_of()
    thin = np.array(case.labels.voxels)
    thin[:, :, 20:] = 0  # one column of the large ball alone, between two samples of 4 mm
    columns = np.flatnonzero((case.labels.voxels == 1).any(axis=(0, 1)))
    thin[thin == 1] = 0
    thin[:, 12:18, 21] = 1
    assert 21 in columns
    case = replace(case, labels=case.labels.with_voxels(thin))
    with pytest.raises(ScanError, match=r"large is in training slices, but in none(.|\n)*--spacing nearer"):
        train(case, tmp_path / "a.safetensors", SHORT, Watch(), replace(WISHES, spacing=(4.0, 4.0)))
    assert not list(tmp_path.iterdir())


def test_hours_are_said_after_a_few_steps_with_what_makes_them_fewer(
    case_of: Callable[..., Case], tmp_path: Path
) -> None:
    notes: list[str] = []

    def enough(done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            case_of(),
            tmp_path / "a.safetensors",
            replace(SHORT, epochs=4000, steps=10_000),
            Watch(enough, note=notes.append),
        )
    [note] = notes
    assert "h for the 39,999,996 steps that are left" in note
    assert note.endswith("Less: --set width=4 / --epochs 1000 (--resume extends it later) / a smaller --patch")


def test_a_short_training_says_only_what_its_epochs_took(case_of: Callable[..., Case], tmp_path: Path) -> None:
    notes, epochs = list[str](), list[Epoch]()
    watch = Watch(epoch=epochs.append, note=notes.append)
    settings = replace(SHORT, epochs=3, steps=2)
    total = train(case_of(), tmp_path / "a.safetensors", settings, watch)["seconds"]
    assert notes == []
    assert sum(epoch.seconds for epoch in epochs) == pytest.approx(total)
    assert [epoch.remaining_s > 0 for epoch in epochs] == [True, True, False]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (42.3, "42 s"), (89.0, "89 s"), (90.0, "1.5 min"), (5399, "90.0 min"), (5400, "1.5 h")],
)
def test_a_duration_is_in_the_unit_that_one_thinks_in(seconds: float, text: str) -> None:
    assert duration(seconds) == text
