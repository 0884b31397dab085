"""Training learns, keeps its best, survives an interruption and says why it stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medattn_edge.errors import CheckpointError, HostError, OutputError, UsageError
from medattn_edge.models import checkpoint
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.spec import Intensity, ModelSpec
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
    evaluate,
    fit,
    initial_network,
    resume_path,
    split_cases,
)
from medattn_edge.training.cases import remapped
from medattn_edge.training.schedule import learning_rate

LABELS = (Label(1, "large", (1,)), Label(2, "small", (2,)))
FLAT = Wishes("attention-unet-2d", {"width": 8}, patch=(32, 32))  # narrower gates miss the second ball
SHORT = TrainingSettings(epochs=3, steps=2, batch=2, seed=11)


def train(
    cases: list[Case],
    path: Path,
    *,
    labels: tuple[Label, ...] = LABELS,
    wishes: Wishes = FLAT,
    settings: TrainingSettings = SHORT,
    resume: bool = False,
    watch: Watch = Watch(),  # noqa: B008
) -> tuple[Result, SegmentationNetwork]:
    spec, _ = choose_spec(cases, labels, wishes)
    network = initial_network(spec, settings.seed)
    return fit(network, cases, spec, settings, Output(path, {"command": "test"}, resume), watch), network


@pytest.mark.parametrize(
    ("wishes", "settings"),
    [
        (FLAT, TrainingSettings(epochs=2, steps=25, batch=4, learning_rate=1e-2)),
        (
            Wishes("attention-unet-monai", {"dims": 3, "channels": [8, 16, 32]}, patch=(8, 32, 32)),
            TrainingSettings(epochs=2, steps=25, batch=2, learning_rate=1e-2, blocks=3),
        ),
    ],
    ids=["2-D", "3-D"],
)
def test_a_small_network_learns_two_balls(
    wishes: Wishes, settings: TrainingSettings, case_of: Callable[..., Case], tmp_path: Path
) -> None:
    """Both as one label: to tell them apart takes more steps than a test may."""
    case, labels = case_of(), (Label(1, "ball", (1, 2)),)
    case = Case("a", case.scan, remapped(case.labels, labels))
    result, _ = train([case], tmp_path / "balls.safetensors", labels=labels, wishes=wishes, settings=settings)
    assert result.score.held_out["ball"] > 0.8
    assert result.score.training["ball"] > 0.8
    assert result.score.millilitres["ball"] == pytest.approx(case.labels.voxels.sum() / 1000, rel=0.3)


def test_the_checkpoint_says_how_it_came_to_be(case_of: Callable[..., Case], tmp_path: Path) -> None:
    seen: list[Epoch] = []
    steps: list[tuple[int, int]] = []
    watch = Watch(lambda done, total: steps.append((done, total)), seen.append)
    result, _ = train([case_of()], tmp_path / "a.safetensors", watch=watch)
    loaded = checkpoint.load(tmp_path / "a.safetensors")
    notes = loaded.notes
    assert notes == result.notes
    assert not loaded.foreign
    assert (notes["command"], notes["subjects"], notes["settings"]["seed"]) == ("test", 1, 11)
    assert notes["split"] == [
        {"scan": "ball.npz", "training_slices": "0-4,10-16,21-23", "held_out_slices": "6-8,18-19"}
    ]
    assert steps == [(done, 6) for done in range(1, 7)]
    assert [epoch.number for epoch in seen] == [1, 2, 3]
    best = max(seen, key=lambda epoch: epoch.score.mean)
    assert notes["best_epoch"] == best.number
    assert notes["held_out_dice"] == best.score.held_out
    again = evaluate(loaded.network, loaded.spec, [case_of()], split_cases([case_of()], 0.2, 10), everything=True)
    assert again.held_out == notes["held_out_dice"]
    assert again.training == notes["training_dice"]


def test_resuming_gives_the_same_weights_bit_for_bit(case_of: Callable[..., Case], tmp_path: Path) -> None:
    cases = [case_of()]
    _, straight = train(cases, tmp_path / "straight.safetensors")

    def interrupt(done: int, total: int) -> None:
        if done == 4:  # in the last step of the second epoch
            raise KeyboardInterrupt

    path = tmp_path / "interrupted.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(cases, path, watch=Watch(interrupt))
    assert path.is_file()
    assert resume_path(path).is_file()
    steps: list[int] = []
    watch = Watch(lambda done, total: steps.append(done))
    _, resumed = train(cases, path, resume=True, watch=watch)
    assert steps == [3, 4, 5, 6]
    _assert_equal(straight.state_dict(), resumed.state_dict())
    a, b = checkpoint.load(tmp_path / "straight.safetensors"), checkpoint.load(path)
    _assert_equal(a.network.state_dict(), b.network.state_dict())
    assert {**a.notes, "seconds": 0} == {**b.notes, "seconds": 0}


def test_the_seed_decides_and_leaves_the_rest_of_the_program_alone(
    case_of: Callable[..., Case], tmp_path: Path
) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    settings = replace(SHORT, epochs=1)
    _, one = train([case_of()], tmp_path / "one.safetensors", settings=settings)
    _, same = train([case_of()], tmp_path / "same.safetensors", settings=settings)
    _, other = train([case_of()], tmp_path / "other.safetensors", settings=replace(settings, seed=12))
    _assert_equal(one.state_dict(), same.state_dict())
    assert not torch.equal(one.state_dict()["head.weight"], other.state_dict()["head.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_diverging_training_stops_and_keeps_the_best(case_of: Callable[..., Case], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    spec, _ = choose_spec([case_of()], LABELS, FLAT)
    network = initial_network(spec, 0)

    def poison(epoch: Epoch) -> None:
        with torch.no_grad():
            next(network.parameters()).fill_(torch.nan)

    with pytest.raises(UsageError, match=r"diverged.*\n.*--learning-rate 0.0001"):
        fit(network, [case_of()], spec, SHORT, Output(path), Watch(epoch=poison))
    assert checkpoint.load(path).notes["best_epoch"] == 1
    assert not resume_path(path).exists()


def test_the_output_is_replaced_by_the_first_epoch_and_not_before(case_of: Callable[..., Case], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("precious")

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train([case_of()], path, watch=Watch(interrupt))
    assert path.read_text() == "precious"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]
    with pytest.raises(OutputError, match="does not exist"):
        train([case_of()], tmp_path / "nowhere" / "a.safetensors")


@pytest.fixture
def interrupted(case_of: Callable[..., Case], tmp_path: Path) -> Path:
    """A checkpoint whose training was interrupted after its first epoch."""

    def interrupt(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train([case_of()], tmp_path / "a.safetensors", watch=Watch(epoch=interrupt))
    return tmp_path / "a.safetensors"


def test_an_interrupted_training_is_not_overwritten_by_mistake(interrupted: Path, case_of: Callable[..., Case]) -> None:
    with pytest.raises(UsageError, match="--resume"):
        train([case_of()], interrupted)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"settings": replace(SHORT, epochs=9, steps=3)}, "training: settings.steps was 2, is 3"),
        ({"settings": replace(SHORT, learning_rate=0.1)}, "settings.learning_rate was 0.001, is 0.1"),
        ({"wishes": replace(FLAT, intensity=Intensity.parse("minmax"))}, "spec.intensity was"),
        ({"wishes": replace(FLAT, config={"width": 4})}, "spec.config was"),
    ],
)
def test_a_resume_file_of_other_settings_is_refused(
    interrupted: Path, case_of: Callable[..., Case], change: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        train([case_of()], interrupted, resume=True, **change)
    with pytest.raises(UsageError, match="scans was"):
        train([case_of(seed=9)], interrupted, resume=True)


def test_a_resume_file_that_is_missing_or_damaged_is_refused(interrupted: Path, case_of: Callable[..., Case]) -> None:
    file = resume_path(interrupted)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        train([case_of()], interrupted, resume=True)
    file.unlink()
    with pytest.raises(UsageError, match="without --resume"):
        train([case_of()], interrupted, resume=True)


def test_a_batch_without_statistics_is_refused(case_of: Callable[..., Case], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--batch 2"):
        train(
            [case_of()],
            tmp_path / "a.safetensors",
            wishes=replace(FLAT, patch=(16, 16)),
            settings=replace(SHORT, batch=1),
        )


def test_regions_that_overlap_are_not_trained_as_labels_that_exclude_each_other(
    case_of: Callable[..., Case], tmp_path: Path
) -> None:
    case = case_of()
    spec, _ = choose_spec([case], LABELS, FLAT)
    sigmoid = replace(spec, labels=("ball", "small", "edge"), outputs=0, activation="sigmoid")
    with pytest.raises(UsageError, match=r"regions ball, small, edge(.|\n)*--activation sigmoid"):
        fit(initial_network(sigmoid, 0), [case], sigmoid, SHORT, Output(tmp_path / "a.safetensors", {}))
    assert not list(tmp_path.iterdir())


def test_whole_scans_are_held_out_of_a_binary_training(case_of: Callable[..., Case], tmp_path: Path) -> None:
    cases = [case_of(shape=(4, 32, 32), seed=seed, name=f"{seed}.npz") for seed in range(5)]
    binary = [
        Case(one.name, one.scan, one.labels.with_voxels((one.labels.voxels == 1).astype(np.uint8))) for one in cases
    ]
    spec = ModelSpec(
        "attention-unet-2d",
        1,
        ("background", "ball"),
        (32, 32),
        (16, 16),
        intensity=Intensity.parse("zscore"),
        outputs=1,
        config={"width": 8},
    )
    settings = TrainingSettings(epochs=2, steps=15, batch=4, learning_rate=1e-2)
    result = fit(initial_network(spec, 0), binary, spec, settings, Output(tmp_path / "a.safetensors"))
    assert [bool(part["held_out_slices"]) for part in result.notes["split"]] == [False, False, True, False, False]
    assert result.score.held_out["ball"] > 0.6


def test_the_learning_rate_falls_to_a_hundredth() -> None:
    rates = [learning_rate(step, 100, 1e-3) for step in range(101)]
    assert rates[0] == 1e-3
    assert rates[50] == pytest.approx((1e-3 + 1e-5) / 2)
    assert rates[-1] == pytest.approx(1e-5)
    assert rates == sorted(rates, reverse=True)


def test_frozen_norms_keep_what_they_gathered_while_the_weights_go_on(
    case_of: Callable[..., Case], tmp_path: Path
) -> None:
    def gathered(share: float) -> dict[str, torch.Tensor]:
        settings = replace(SHORT, epochs=2, frozen_norms=share)
        states: list[dict[str, torch.Tensor]] = []
        case = case_of()
        spec, _ = choose_spec([case], LABELS, FLAT)
        network = initial_network(spec, settings.seed)
        watch = Watch(epoch=lambda _: states.append({k: v.clone() for k, v in network.state_dict().items()}))
        fit(network, [case], spec, settings, Output(tmp_path / f"{share}.safetensors"), watch)
        moved = {key for key in states[0] if not torch.equal(states[0][key], states[1][key])}
        assert any(key.endswith("weight") for key in moved)
        return {key: states[1][key] for key in moved if key.endswith("running_mean")}

    assert gathered(0.0)
    assert not gathered(0.5)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_of_frozen_norms_is_a_share(share: float) -> None:
    with pytest.raises(UsageError, match="--frozen-norms"):
        TrainingSettings(frozen_norms=share)


def test_patches_that_would_be_padded_as_no_window_is_are_told_with_what_helps(
    case_of: Callable[..., Case], tmp_path: Path
) -> None:
    notes: list[str] = []
    wishes = Wishes("attention-unet-monai", {"dims": 3, "channels": [4, 8]}, patch=(8, 16, 16))
    watch = Watch(note=notes.append)
    short = replace(SHORT, epochs=1, blocks=6)
    train([case_of()], tmp_path / "padded.safetensors", wishes=wishes, settings=short, watch=watch)
    [note] = notes
    assert "up to 1 of its 8 slices" in note
    better = int(note.split("--blocks ")[1])
    notes.clear()
    train([case_of()], tmp_path / "a.safetensors", wishes=wishes, settings=replace(short, blocks=better), watch=watch)
    assert notes == []


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:x", ""])
def test_a_device_that_nobody_knows_is_refused(device: str) -> None:
    with pytest.raises(UsageError, match="cpu or cuda:INDEX"):
        TrainingSettings(device=device)


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    case_of: Callable[..., Case], tmp_path: Path
) -> None:
    with pytest.raises(HostError, match="not cuda:63"):
        train([case_of()], tmp_path / "a.safetensors", settings=replace(SHORT, device="cuda:63"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this host has no NVIDIA GPU that this torch can use")
def test_on_a_gpu_a_network_learns_and_goes_on_after_an_interruption(
    case_of: Callable[..., Case], tmp_path: Path
) -> None:
    case, labels = case_of(), (Label(1, "ball", (1, 2)),)
    case = Case("a", case.scan, remapped(case.labels, labels))
    settings = TrainingSettings(epochs=2, steps=25, batch=4, learning_rate=1e-2, device="cuda:0")

    def interrupt(done: int, total: int) -> None:
        if done == 26:
            raise KeyboardInterrupt

    path = tmp_path / "balls.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train([case], path, labels=labels, settings=settings, watch=Watch(interrupt))
    result, network = train([case], path, labels=labels, settings=settings, resume=True)
    assert {parameter.device.type for parameter in network.parameters()} == {"cuda"}
    assert result.score.held_out["ball"] > 0.8
    assert result.notes["settings"]["device"] == "cuda:0"
    loaded = checkpoint.load(path)  # what was trained on a GPU opens without one
    assert {parameter.device.type for parameter in loaded.network.parameters()} == {"cpu"}
    parts = split_cases([case], settings.holdout, settings.blocks)
    on_cpu = evaluate(loaded.network, loaded.spec, [case], parts, everything=True)
    assert on_cpu.held_out["ball"] == pytest.approx(result.score.held_out["ball"], abs=1e-3)


@pytest.mark.parametrize("change", [{"epochs": 0}, {"batch": 0}, {"learning_rate": -1.0}, {"seed": -1}])
def test_settings_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        TrainingSettings(**change)


def _assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())
