"""A trained network made wider, the function staying the same: to time a published width on what a network has learnt.

    python benchmarks/widened.py CHECKPOINT -o WIDER [--times 2]

Every channel is doubled and every weight that reads it is halved (Net2Net: Chen and others 2015, arXiv:1511.05641).
What comes out is compared with what went in before anything is written.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from medattn_edge.models import build, checkpoint
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.spec import ModelSpec

_SAME = 1e-4  # of the largest logit: FP32 sums in another order


def main(
    source: Annotated[Path, typer.Argument(metavar="CHECKPOINT")],
    output: Annotated[Path, typer.Option("--output", "-o")],
    times: Annotated[int, typer.Option(min=2)] = 2,
) -> None:
    loaded = checkpoint.load(source)
    spec = replace(loaded.spec, config={**loaded.spec.config, "width": times * int(loaded.spec.config["width"])})
    wide = widened(loaded.network, spec)
    image = torch.rand(1, spec.in_channels, *loaded.spec.patch, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, found = loaded.network.eval()(image), wide(image)
    apart = float((wanted - found).abs().max() / wanted.abs().max())
    if apart > _SAME:
        raise SystemExit(f"not the same function: {apart:.1e} of the largest logit apart")
    checkpoint.save(output, wide, spec, {**loaded.notes, "widened": f"{times} times, from {source.name}"})
    print(f"{output}: width {spec.config['width']}, {apart:.1e} of the largest logit from {source.name}")


def widened(network: SegmentationNetwork, spec: ModelSpec) -> SegmentationNetwork:
    """The network that the spec describes, with every channel of `network` repeated side by side."""
    wide = build(spec)
    given, state = network.state_dict(), wide.state_dict()
    for name, value in given.items():
        made = value
        for axis in range(min(2, value.ndim)):
            count = state[name].shape[axis] // value.shape[axis]
            made = made.repeat_interleave(count, axis) / (count if axis == 1 else 1)
        state[name] = made.to(value.dtype)
    wide.load_state_dict(state)
    return wide.eval()


if __name__ == "__main__":
    typer.run(main)
