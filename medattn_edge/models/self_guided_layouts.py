"""The published state_dict layouts of the self-guided network.

Their names count scales backwards: `conv_sem_s_1`, `conv8_1` and `conv8_11` belong to scale 4, `..._4` to scale 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from medattn_edge.errors import CheckpointError
from medattn_edge.models.network import Config, Shapes
from medattn_edge.models.resnet import BACKBONES, torchvision_modules

_ATTENTION = {"query_conv": "query", "key_conv": "key", "value_conv": "value"}


def config_2020(shapes: Shapes) -> Config:
    """Settings of the 2020 layout, from its shapes."""
    bottleneck = "resnext.layer1.1.0.conv3.weight" in shapes
    return _config(shapes, "resnext.layer1.1.0.conv2.weight", bottleneck)


def config_2019(shapes: Shapes) -> Config:
    """Settings of the 2019 layout, from its shapes."""
    return _config(shapes, "resnext.layer1.1.0.0.0.0.3.weight", bottleneck=True)


def _config(shapes: Shapes, second: str, bottleneck: bool) -> Config:
    width, per_group = shapes[second][:2]
    base = shapes["resnext.layer0.0.weight"][0]
    groups = width // per_group
    deepest = max(int(match[1]) for key in shapes if (match := re.match(r"resnext\.layer3\.(\d+)\.", key)))
    matching = [
        name
        for name, kind in BACKBONES.items()
        if (kind.bottleneck, kind.groups, kind.blocks[2]) == (bottleneck, groups, deepest + 1)
        and (not bottleneck or base * kind.group_width // 64 * kind.groups == width)
    ]
    if len(matching) != 1:
        raise CheckpointError(
            f"a backbone with {deepest + 1} blocks in layer 3 and {groups} groups of {per_group} channels",
            expected=f"one of {', '.join(BACKBONES)}",
            hint="load the checkpoint with the code that trained it and check its backbone",
        )
    return {
        "backbone": matching[0],
        "backbone_width": base,
        "width": shapes["down1.0.weight"][0],
        "autoencoder": "shared",
    }


def modules_2020(config: Config) -> dict[str, str]:
    """Published module path -> ours."""
    backbone = torchvision_modules(config["backbone"], "resnext.", "backbone.")
    # layer1 starts with its max pooling, so that its blocks sit one level deeper.
    backbone = {re.sub(r"layer1\.", "layer1.1.", theirs): ours for theirs, ours in backbone.items()}
    return backbone | _decoder("attn.", "fuse1.fuse_attn")


def modules_2019(config: Config) -> dict[str, str]:
    """Published module path -> ours: blocks are nested Sequentials, attentions and fusion have no name of their own."""
    modules: dict[str, str] = {}
    for layer, count in enumerate(BACKBONES[config["backbone"]].blocks):
        for block in range(count):
            theirs = f"resnext.layer{layer + 1}.{'1.' if layer == 0 else ''}{block}.0"
            ours = f"backbone.layers.{layer}.{block}"
            modules |= {f"{theirs}.0.0.{index}": f"{ours}.branch.{index}" for index in (0, 1, 3, 4)}
            modules |= {f"{theirs}.0.1": f"{ours}.branch.6", f"{theirs}.0.2": f"{ours}.branch.7"}
            modules[f"{theirs}.1"] = f"{ours}.shortcut"
    return modules | _decoder("", "fuse1")


def _decoder(attention: str, fuse: str) -> dict[str, str]:
    modules = {"resnext.layer0.0": "backbone.stem.0", "resnext.layer0.1": "backbone.stem.1", fuse: "fuse"}
    for scale in range(1, 5):
        index, backwards = scale - 1, 5 - scale
        modules |= {
            f"down{scale}": f"down.{index}",
            f"predict{scale}": f"side_heads.{index}",
            f"predict{scale}_2": f"heads.{index}",
            f"conv8_{backwards}": f"step1.scales.{index}.refine",
            f"conv8_1{backwards}": f"step2.scales.{index}.refine",
        }
        for step in (1, 2):
            ours = f"step{step}.scales.{index}"
            modules[f"conv_sem_{step}_{backwards}"] = f"{ours}.semantic"
            for kind, name in (("pam", "position"), ("cam", "channel")):
                theirs = f"{kind}_attention_{step}_{scale}.{attention}"
                modules |= _layer(theirs, f"{ours}.{name}")
    for step in (1, 2):
        theirs, ours = f"semanticModule_{step}_1", f"step{step}.autoencoders.members.0"
        modules |= {f"{theirs}.enc{part}.encode": f"{ours}.encode{part}" for part in (1, 2)}
        modules |= {f"{theirs}.dec{part}.decode": f"{ours}.decode{part}" for part in (1, 2)}
    return modules


def _layer(theirs: str, ours: str) -> Mapping[str, str]:
    modules = {f"{theirs}{index}": f"{ours}.reduce.{index}" for index in (0, 1, 2)}
    modules |= {f"{theirs}{4 + index}": f"{ours}.restore.{index}" for index in (0, 1, 2)}
    modules[f"{theirs}3"] = f"{ours}.attention"
    return modules | {f"{theirs}3.{name}": f"{ours}.attention.{mine}" for name, mine in _ATTENTION.items()}
