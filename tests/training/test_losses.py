"""The loss is the one that the papers write down."""

from __future__ import annotations

import math

import pytest
import torch

from medattn_edge.models.network import TrainingOutputs
from medattn_edge.models.self_guided_attention import NETWORK as SELF_GUIDED
from medattn_edge.training.losses import cross_entropy, segmentation_loss, soft_dice_loss, training_loss

# Two voxels of two classes: p = (3/4, 1/4) and (1/4, 3/4), the first voxel is background, so is the second.
LOGITS = torch.tensor([[[[math.log(3.0), 0.0]], [[0.0, math.log(3.0)]]]])
TARGET = torch.tensor([[[0, 0]]])


def test_cross_entropy_and_dice_are_what_a_hand_computes() -> None:
    assert cross_entropy(LOGITS, TARGET).item() == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2, rel=1e-6)
    background, organ = (2 * 1.0 + 0.01) / (1.0 + 2.0 + 0.01), 0.01 / (1.0 + 0.01)
    assert soft_dice_loss(LOGITS, TARGET).item() == pytest.approx(1 - (background + organ) / 2, rel=1e-6)
    together = cross_entropy(LOGITS, TARGET) + soft_dice_loss(LOGITS, TARGET)
    assert segmentation_loss(LOGITS, TARGET).item() == together.item()


def test_a_single_logit_is_worth_two_classes() -> None:
    """softmax of (0, x) is the sigmoid of x."""
    x = torch.randn(2, 1, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 2, (2, 4, 5, 6), generator=torch.Generator().manual_seed(1))
    pair = torch.cat((torch.zeros_like(x), x), 1)
    assert segmentation_loss(x, target).item() == pytest.approx(segmentation_loss(pair, target).item(), rel=1e-5)


def test_a_perfect_answer_costs_nothing_and_an_absent_class_does_no_harm() -> None:
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    target[0, 2:4] = 1
    logits = torch.nn.functional.one_hot(target, 4).movedim(-1, 1).float() * 60
    assert segmentation_loss(logits, target).item() < 1e-5


@pytest.mark.parametrize(
    ("outputs", "factors"),
    [
        (lambda x: TrainingOutputs(x), [1.0]),
        (lambda x: TrainingOutputs(x, (x, x, x, x)), [1.0, 0.5, 0.25, 0.125, 0.0625]),
        (lambda x: TrainingOutputs(x, (x,) * 8, (), ((x, x),)), [1.0] * 9),
    ],
    ids=["logits alone", "deep supervision", "self-guided"],
)
def test_every_prediction_counts_with_its_weight(outputs: object, factors: list[float]) -> None:
    once = segmentation_loss(LOGITS, TARGET).item()
    assert training_loss(outputs(LOGITS), TARGET).item() == pytest.approx(sum(factors) * once, rel=1e-5)  # type: ignore[operator]


def test_the_self_guided_loss_has_all_its_terms() -> None:
    settings = {**SELF_GUIDED.settings, "backbone": "resnet18", "width": 8, "backbone_width": 8}
    network = SELF_GUIDED.build(settings, 1, 3)
    outputs = network.training_outputs(torch.rand(2, 1, 32, 32))
    target = torch.zeros(2, 32, 32, dtype=torch.long)
    assert [len(part) for part in outputs[1:]] == [8, 8, 4]
    whole = training_loss(outputs, target).item()
    for name, weight in (("reconstructions", 0.1), ("latents", 0.25)):
        pairs = getattr(outputs, name)
        for index, (first, second) in enumerate(pairs):
            equal = (*pairs[:index], (first, first), *pairs[index + 1 :])
            without = training_loss(outputs._replace(**{name: equal}), target).item()
            term = weight * torch.nn.functional.mse_loss(first, second).item()
            assert whole - without == pytest.approx(term, abs=1e-5)
            assert term > 1e-4
    for index, logits in enumerate(outputs.side_logits):
        without = training_loss(
            outputs._replace(side_logits=outputs.side_logits[:index] + outputs.side_logits[index + 1 :]), target
        ).item()
        assert whole - without == pytest.approx(segmentation_loss(logits, target).item(), abs=1e-5)
