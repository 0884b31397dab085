"""Convolutions made from convolutions: composed, split by their inputs, merged by their outputs. All in FP64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

Convolution = nn.Conv2d | nn.Conv3d
Layer = TypeVar("Layer", bound=nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d)


def like(layer: Layer, weight: Tensor, bias: Tensor | None) -> Layer:
    """A layer with these weights and otherwise the settings, the precision and the device of another."""
    transposed = isinstance(layer, nn.ConvTranspose2d)
    inputs, outputs = weight.shape[:2] if transposed else (weight.shape[1] * layer.groups, weight.shape[0])
    layer_like = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        type(layer),
        inputs,
        outputs,
        tuple(weight.shape[2:]),
        stride=layer.stride,
        padding=layer.padding,
        groups=layer.groups,
        bias=bias is not None,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    with torch.no_grad():
        layer_like.weight.copy_(weight)
        if layer_like.bias is not None and bias is not None:
            layer_like.bias.copy_(bias)
    layer_like.requires_grad_(False)
    return layer_like  # type: ignore[no-any-return]


def bias_of(layer: Convolution | nn.ConvTranspose2d) -> Tensor:
    """A layer's bias in FP64; zeros where it has none."""
    if layer.bias is None:
        return torch.zeros(layer.out_channels, dtype=torch.float64, device=layer.weight.device)
    return layer.bias.double()


def composed(outer: Convolution, inner: Convolution) -> Convolution:
    """One convolution for outer(inner(x)); `outer` is 1x1, so that no border comes between them."""
    mixing = outer.weight.double().flatten(1)
    weight = torch.tensordot(mixing, inner.weight.double(), dims=1)
    return like(inner, weight, mixing @ bias_of(inner) + bias_of(outer))


def input_parts(conv: Convolution, sizes: Sequence[int]) -> list[Convolution]:
    """Convolutions whose sum over the parts is conv(cat(parts)); the bias goes with the first."""
    weights = torch.split(conv.weight, list(sizes), dim=1)
    return [like(conv, weight, conv.bias if index == 0 else None) for index, weight in enumerate(weights)]


def merged_outputs(convs: Sequence[Convolution]) -> Convolution:
    """One convolution whose outputs are those of several over the same input, one after the other."""
    bias = None if all(conv.bias is None for conv in convs) else torch.cat([bias_of(conv) for conv in convs])
    return like(convs[0], torch.cat([conv.weight for conv in convs]), bias)
