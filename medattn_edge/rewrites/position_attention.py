"""Position attention with its gain and its biases folded, written out, by torch's own operator or in query blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medattn_edge.errors import UsageError
from medattn_edge.models.attention import PositionAttention
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.models.self_guided_attention import SelfGuidedAttention
from medattn_edge.rewrites.decomposed_guided import DecomposedPositionAttention, decompose_guided
from medattn_edge.rewrites.linear import bias_of, like, merged_outputs
from medattn_edge.rewrites.record import Rewrite, sites

FORMS = ("plain", "sdpa", "blocked")
# A block is 4 MiB at 4096 positions and 16 MiB at 16384. How much longer the plain form takes in ONNX Runtime than 64,
# 128, 256, 512, 1024 and 2048 rows do, medians of paired runs on a noisy machine:
#   one thread   4096 positions 1.25 1.29 1.32 1.33 1.25 1.19    16384 positions 1.29 1.39 1.40 1.33 1.25 1.13
#   two threads  4096 positions 1.57 1.88 1.66 1.28 1.07 1.01    16384 positions 1.05 1.22 1.18 1.12 0.98 1.04
# 128 and 256 rows are the best at both sizes, whatever their bytes, and 256 make half as many nodes.
ROWS = 256


class SeparateProjections(nn.Module):
    """Three convolutions over one input."""

    def __init__(self, query: nn.Conv2d, key: nn.Conv2d, value: nn.Conv2d) -> None:
        super().__init__()
        self.query, self.key, self.value = query, key, value

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C, h, w) -> query, key and value maps."""
        return self.query(x), self.key(x), self.value(x)


class FoldedPositionAttention(nn.Module):
    """softmax(Q K^T) V + x, the gain being in V; the key's bias shifts whole rows, which a softmax does not see.

    While tracing, blocks would be counted for one size only, and the plain form is recorded.

    Args:
        attention: the one whose function it is.
        form: `plain` keeps the weights (N, hw, hw) in memory; `sdpa` leaves that to torch's
            scaled_dot_product_attention; `blocked` computes `rows` queries at a time, so that memory grows with hw and
            not with its square.
        rows: queries of a block; the last block may be smaller.
    """

    def __init__(self, attention: PositionAttention, form: str = "plain", rows: int = ROWS) -> None:
        super().__init__()
        query, key, value, gamma = attention.query, attention.key, attention.value, attention.gamma.double()
        folded = like(value, gamma * value.weight.double(), gamma * bias_of(value))
        self.project: nn.Module = SeparateProjections(query, like(key, key.weight, None), folded)
        self.choose(form, rows)

    def choose(self, form: str, rows: int = ROWS) -> None:
        """Another form of the same function; raises UsageError for one that is not known."""
        if form not in FORMS or rows < 1:
            raise UsageError(
                f"the form {form!r} with {rows} rows is not known",
                expected=f"one of {', '.join(FORMS)}, and at least 1 row",
                hint=FORMS[0],
            )
        self.form, self.rows = form, rows

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        query, key, value = self._projected(x)
        if self._by_operator():
            heads = (query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1))
            mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], scale=1.0).squeeze(1)
        elif self._whole():
            mixed = torch.matmul(_weights(query, key), value)
        elif self._recorded():
            blocks: list[Tensor] = []
            for start in range(0, query.shape[1], self.rows):
                blocks.append(torch.matmul(_weights(query[:, start : start + self.rows], key), value))
            mixed = torch.cat(blocks, 1)
        else:
            # In its place: small answers kept between the large blocks would hold on to the holes that those leave, in
            # the end 1 GiB at 16384 positions.
            mixed = torch.empty_like(value)
            for start in range(0, query.shape[1], self.rows):
                mixed[:, start : start + self.rows] = torch.matmul(
                    _weights(query[:, start : start + self.rows], key), value
                )
        return mixed.transpose(1, 2).reshape(x.shape) + x

    def weights(self, x: Tensor) -> Tensor:
        """(N, hw, hw): row i says which positions position i looks at; rows sum to 1."""
        query, key, _ = self._projected(x)
        return _weights(query, key)

    def received(self, x: Tensor) -> Tensor:
        """(N, hw): the attention that each position receives from all others."""
        query, key, _ = self._projected(x)
        if self._whole():
            return _weights(query, key).sum(1)
        total = _weights(query[:, : self.rows], key).sum(1)
        for start in range(self.rows, query.shape[1], self.rows):
            total += _weights(query[:, start : start + self.rows], key).sum(1)
        return total

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, (N, hw, channels) each."""
        query, key, value = self.project(x)
        return _by_position(query), _by_position(key), _by_position(value)

    def _by_operator(self) -> bool:
        """In ONNX the operator would be written out with shapes computed at run time; the plain form needs none."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self.form == "sdpa"
        else:  # noqa: RET505 - TorchScript leaves out this branch, and only where it is one
            return self.form == "sdpa" and not torch.onnx.is_in_onnx_export()

    def _recorded(self) -> bool:
        """In an exported graph, answers put together are one operator; written in their places they would be many."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return False
        else:  # noqa: RET505 - as above
            return torch.compiler.is_compiling()

    def _whole(self) -> bool:
        return self.form == "plain" or torch.jit.is_tracing()  # type: ignore


def folded_attentions(network: SegmentationNetwork) -> list[tuple[str, FoldedPositionAttention]]:
    """Path and module of every one that the network has."""
    return sites(network, FoldedPositionAttention)


def _by_position(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _weights(query: Tensor, key: Tensor) -> Tensor:
    return torch.softmax(torch.matmul(query, key.transpose(1, 2)), dim=2)


def fold_position_attentions(network: SegmentationNetwork) -> list[str]:
    """Written out as MatMul, Softmax, MatMul; the scale asks it for the received attention, not for all weights."""
    if isinstance(network, SelfGuidedAttention):
        decompose_guided(network)
    # Those of networks that are not ours stand alone.
    attentions = [*sites(network, DecomposedPositionAttention), *sites(network, PositionAttention)]
    for path, attention in attentions:
        network.set_submodule(path, FoldedPositionAttention(attention))
    return [path for path, _ in attentions]


POSITION_ATTENTION = Rewrite(
    name="position-attention",
    title="position attention's gain folded into its values, its key's bias dropped",
    source="Fu et al. 2019, arXiv:1809.02983; softmax(e + c) = softmax(e) for a c of the whole row",
    apply=fold_position_attentions,
)


class MergedProjections(nn.Module):
    """One convolution and a split of its channels."""

    def __init__(self, apart: SeparateProjections) -> None:
        super().__init__()
        convs = (apart.query, apart.key, apart.value)
        self.conv = merged_outputs(convs)
        self.sizes = [conv.out_channels for conv in convs]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C, h, w) -> query, key and value maps."""
        query, key, value = self.conv(x).split(self.sizes, 1)
        return query, key, value


def merge_projections(network: SegmentationNetwork) -> list[str]:
    """Not in OpenVINO, where a split of channels is slow."""
    paths = []
    for path, attention in folded_attentions(network):
        if isinstance(attention.project, SeparateProjections):
            attention.project = MergedProjections(attention.project)
            paths.append(path)
    return paths


POSITION_PROJECTIONS = Rewrite(
    name="position-projections",
    title="query, key and value by one convolution",
    source="convolutions over one input are rows of one matrix",
    apply=merge_projections,
    needs=("position-attention",),
)


def choose_sdpa(network: SegmentationNetwork) -> list[str]:
    """One operator, whose kernel each device chooses; exported to ONNX it is written out again."""
    attentions = [(path, attention) for path, attention in folded_attentions(network) if attention.form != "sdpa"]
    for _, attention in attentions:
        attention.choose("sdpa")
    return [path for path, _ in attentions]


POSITION_SDPA = Rewrite(
    name="position-sdpa",
    title="position attention by scaled_dot_product_attention, scale 1",
    source="Dao et al. 2022, arXiv:2205.14135: exact attention without its matrix, where a device has the kernel",
    apply=choose_sdpa,
    needs=("position-attention",),
)


def choose_blocks(network: SegmentationNetwork) -> list[str]:
    """An exported graph has one MatMul, Softmax, MatMul per block of the patch; the number of blocks is fixed there."""
    attentions = [(path, attention) for path, attention in folded_attentions(network) if attention.form != "blocked"]
    for _, attention in attentions:
        attention.choose("blocked")
    return [path for path, _ in attentions]


POSITION_BLOCKS = Rewrite(
    name="position-blocks",
    title="position attention a block of queries at a time",
    source="Rabe and Staats 2021, arXiv:2112.05682: a softmax row needs no other row",
    apply=choose_blocks,
    needs=("position-attention",),
    excludes=("position-sdpa",),
)

REWRITES = (
    POSITION_ATTENTION,
    POSITION_PROJECTIONS,
    POSITION_SDPA,
    POSITION_BLOCKS,
)
