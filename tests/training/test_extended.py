"""A training is extended by --resume with more epochs: what goes on, what is not as in one go, and what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medattn_edge.errors import UsageError
from medattn_edge.models import checkpoint
from medattn_edge.training import (
    Case,
    Epoch,
    Label,
    Output,
    Result,
    TrainingSettings,
    Watch,
    Wishes,
    choose_spec,
    fit,
    initial_network,
    is_finished,
    resume_path,
)

pytestmark = pytest.mark.slow

LABELS = (Label(1, "large", (1,)), Label(2, "small", (2,)))
WISHES = Wishes("attention-unet-2d", {"width": 4}, patch=(32, 32))
TWO = TrainingSettings(epochs=2, steps=2, batch=2, seed=3)
FOUR = replace(TWO, epochs=4)


def train(
    case: Case, path: Path, settings: TrainingSettings, *, resume: bool = False, watch: Watch | None = None
) -> tuple[Result, dict[str, torch.Tensor]]:
    spec, _ = choose_spec([case], LABELS, WISHES)
    network = initial_network(spec, settings.seed)
    last: dict[str, torch.Tensor] = {}
    watch = watch or Watch()

    def keep(epoch: Epoch) -> None:
        last.update({key: value.clone() for key, value in network.state_dict().items()})
        watch.epoch(epoch)

    result = fit(network, [case], spec, settings, Output(path, resume=resume), replace(watch, epoch=keep))
    return result, last


def test_a_finished_training_goes_on_and_its_checkpoint_says_after_which_epoch(
    case_of: Callable[..., Case], tmp_path: Path
) -> None:
    path, notes, epochs = tmp_path / "a.safetensors", list[str](), list[Epoch]()
    first, before = train(case_of(), path, TWO)
    assert is_finished(resume_path(path))
    assert "extensions" not in first.notes
    watch = Watch(epoch=epochs.append, note=notes.append)
    result, after = train(case_of(), path, FOUR, resume=True, watch=watch)
    assert [epoch.number for epoch in epochs] == [3, 4]
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert "2 epochs were trained for an end at 2, which is now 4" in notes[0]
    assert "goes on at 0.00051, where it had come to 1e-05" in notes[0]
    assert result.notes["extensions"] == [{"after_epoch": 2, "planned_epochs": 2}]
    assert checkpoint.load(path).notes["settings"]["epochs"] == 4
    assert result.notes["seconds"] > first.notes["seconds"]


def test_extended_is_not_the_same_as_in_one_go_and_a_stop_at_the_same_end_is(
    case_of: Callable[..., Case], tmp_path: Path
) -> None:
    _, straight = train(case_of(), tmp_path / "straight.safetensors", FOUR)
    train(case_of(), tmp_path / "a.safetensors", TWO)
    _, extended = train(case_of(), tmp_path / "a.safetensors", FOUR, resume=True)
    assert any(not torch.equal(straight[key], extended[key]) for key in straight)

    def interrupt(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(case_of(), tmp_path / "b.safetensors", FOUR, watch=Watch(epoch=interrupt))
    result, resumed = train(case_of(), tmp_path / "b.safetensors", FOUR, resume=True)
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    assert "extensions" not in result.notes


def test_epochs_are_not_taken_back_and_all_of_them_done_is_said(case_of: Callable[..., Case], tmp_path: Path) -> None:
    path, notes = tmp_path / "a.safetensors", list[str]()
    train(case_of(), path, TWO)
    bytes_before = resume_path(path).read_bytes()
    with pytest.raises(UsageError, match=r"2 epochs are done, and --epochs 1 asks for fewer(.|\n)*--epochs 4 to go on"):
        train(case_of(), path, replace(TWO, epochs=1), resume=True)
    result, last = train(case_of(), path, TWO, resume=True, watch=Watch(note=notes.append))
    assert not last
    assert notes == ["all 2 epochs are done: nothing is trained; --epochs 4 with --resume goes on"]
    assert "extensions" not in result.notes
    assert resume_path(path).read_bytes() == bytes_before


def test_what_is_finished_is_replaced_by_the_first_epoch_of_another_training_and_not_before(
    case_of: Callable[..., Case], tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    train(case_of(), path, TWO)
    whole = path.read_bytes(), resume_path(path).read_bytes()

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    other = replace(TWO, seed=4)
    with pytest.raises(KeyboardInterrupt):
        train(case_of(), path, other, watch=Watch(interrupt))
    assert (path.read_bytes(), resume_path(path).read_bytes()) == whole
    result, _ = train(case_of(), path, other)
    assert result.notes["settings"]["seed"] == 4
