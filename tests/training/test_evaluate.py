"""The Dice is the one that inference reaches, told apart by slices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from medattn_edge.errors import ScanError
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.spec import Intensity, ModelSpec
from medattn_edge.training import Case, evaluate, split_cases
from medattn_edge.training.split import Part
from medattn_edge.volume import Volume


class Threshold(SegmentationNetwork):
    """Label 1 above a half, in any number of dimensions."""

    def __init__(self, dims: int) -> None:
        super().__init__((1,) * dims, ())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat((torch.full_like(image, 0.5), image), 1)

    def forward_attention(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self(image), image[:, :0]


@pytest.mark.parametrize("patch", [(8, 8), (4, 8, 8)])
def test_held_out_and_training_slices_are_told_apart(patch: tuple[int, ...], case_of: Callable[..., Case]) -> None:
    affine = case_of(spacing=(5.0, 1.0, 2.0)).scan.affine
    labels = (np.random.default_rng(0).random((20, 16, 16)) > 0.7).astype(np.uint8)
    scan = Volume(labels.astype(np.float32), affine)
    # Stored head first: slices are counted from the feet all the same.
    stored = Volume(labels, affine)._permuted((0, 1, 2), (True, False, False)).like(scan)
    (part,) = split_cases([Case("a", scan, stored)], 0.2, 10)
    spoiled = labels.copy()
    spoiled[part.held_out[0]] = 0
    spec = ModelSpec("any", 1, ("background", "a"), patch, (1,) * len(patch), intensity=Intensity())
    clean, worse = (
        evaluate(Threshold(len(patch)), spec, [Case("a", scan, Volume(one, affine))], [part], everything=True)
        for one in (labels, spoiled)
    )
    assert clean.held_out == clean.training == worse.training == {"a": 1.0}
    lost, kept = (int(labels[list(part.held_out)[start:][: 1 if not start else None]].sum()) for start in (0, 1))
    assert worse.held_out["a"] == pytest.approx(2 * kept / (2 * kept + lost))
    assert worse.mean == worse.held_out["a"]
    assert clean.millilitres["a"] == pytest.approx(labels.sum() * 10 / 1000)


def test_nothing_to_judge_is_refused_and_no_dice_of_1(case_of: Callable[..., Case]) -> None:
    case = case_of(shape=(6, 8, 8))
    empty = Case(
        "a",
        case.scan.with_voxels(np.zeros((6, 8, 8), np.float32)),
        case.labels.with_voxels(np.zeros((6, 8, 8), np.uint8)),
    )
    spec = ModelSpec("any", 1, ("background", "a"), (8, 8), (1, 1), intensity=Intensity())
    with pytest.raises(ScanError, match="no voxel of any scan has a label"):
        split_cases([empty], 0.2, 3)
    with pytest.raises(ScanError, match=r"no held-out voxel is a(.|\n)*--blocks"):
        evaluate(Threshold(2), spec, [empty], [Part((0, 5), (2, 3))], everything=False)


def test_a_label_that_nobody_has_in_a_part_has_no_dice_there(case_of: Callable[..., Case]) -> None:
    labels = np.zeros((6, 8, 8), np.uint8)
    labels[2:4] = 1
    like = case_of(shape=(6, 8, 8))
    case = Case("a", like.scan.with_voxels(labels.astype(np.float32)), like.labels.with_voxels(labels))
    spec = ModelSpec("any", 1, ("background", "a"), (8, 8), (1, 1), intensity=Intensity())
    score = evaluate(Threshold(2), spec, [case], [Part((0, 5), (2, 3))], everything=True)
    assert (score.held_out, score.training, score.mean) == ({"a": 1.0}, {}, 1.0)
