"""Losses: cross-entropy + soft Dice of every prediction, and what the self-guided network adds to them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medattn_edge.models.network import TrainingOutputs

SMOOTH = 0.01  # of the soft Dice: Oktay et al. 2018 (arXiv:1804.03999), the official implementation
RECONSTRUCTION_WEIGHT = 0.1  # Sinha & Dolz 2020 (arXiv:1906.02849), section 3.4
GUIDED_WEIGHT = 0.25  # the same
DEEP_SUPERVISION_DECAY = 0.5  # ours: the heads of a deep-supervised decoder count 1/2, 1/4, ... from the finest down


def training_loss(outputs: TrainingOutputs, target: Tensor) -> Tensor:
    """The loss of one step.

    Always the segmentation loss of the logits that inference uses. Side logits of a network with guided latents count
    fully, as the sum over the eight side outputs of Sinha & Dolz does; other side logits are deep supervision and
    count less the coarser they are. Reconstructions and latents add their weighted mean squared errors.

    Args:
        outputs: Of the network, for a batch of N.
        target: int64 (N, *spatial), label values 0..K-1.
    """
    guided = bool(outputs.latents)
    total = segmentation_loss(outputs.logits, target)
    for index, logits in enumerate(outputs.side_logits):
        weight = 1.0 if guided else DEEP_SUPERVISION_DECAY ** (index + 1)
        total = total + weight * segmentation_loss(logits, target)
    for given, rebuilt in outputs.reconstructions:
        total = total + RECONSTRUCTION_WEIGHT * F.mse_loss(rebuilt, given)
    for first, second in outputs.latents:
        total = total + GUIDED_WEIGHT * F.mse_loss(first, second)
    return total


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy + soft Dice of logits (N, K, *spatial); K = 1 is one logit of label 1."""
    return cross_entropy(logits, target) + soft_dice_loss(logits, target)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the voxels, in nats; the binary form on the logit when K = 1."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], target.to(logits.dtype))
    return F.cross_entropy(logits, target)


def soft_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - the mean over all classes, background included, of (2 sum(p t) + SMOOTH) / (sum(p) + sum(t) + SMOOTH).

    The sums run over the whole batch, so that a slice without an organ does not make its Dice a matter of SMOOTH alone.
    """
    if logits.shape[1] == 1:
        single = torch.sigmoid(logits)
        probabilities = torch.cat((1 - single, single), 1)
    else:
        probabilities = torch.softmax(logits, 1)
    one_hot = F.one_hot(target, probabilities.shape[1]).movedim(-1, 1).to(probabilities.dtype)
    over = (0, *range(2, probabilities.dim()))
    intersection = (probabilities * one_hot).sum(over)
    dice = (2 * intersection + SMOOTH) / (probabilities.sum(over) + one_hot.sum(over) + SMOOTH)
    return 1 - dice.mean()
