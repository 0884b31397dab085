"""Somebody else's checkpoint, to follow the tutorial with: `python foreign_checkpoint.py`.

Writes theirs.pth, weights alone under the key names of AttU_Net (LeeJunHyun/Image_Segmentation), chest.nrrd, a CT, and
chest.seg.nrrd, its labels. The weights are those of the shipped lungs-attention-unet-2d, so there is something to see.
"""

from __future__ import annotations

import re
import shutil

import torch
from safetensors.torch import load_file

from medattn_edge.data import shipped_checkpoints
from medattn_edge.data.samples import sample_labels, sample_scan

NAMES = {
    r"encoder\.(\d)\.1\.": lambda found: f"Conv{int(found[1]) + 1}.conv.",
    r"decoder\.(\d)\.up\.1\.0\.": lambda found: f"Up{5 - int(found[1])}.up.1.",
    r"decoder\.(\d)\.up\.1\.1\.": lambda found: f"Up{5 - int(found[1])}.up.2.",
    r"decoder\.(\d)\.gate\.gating\.": lambda found: f"Att{5 - int(found[1])}.W_g.",
    r"decoder\.(\d)\.gate\.skip\.": lambda found: f"Att{5 - int(found[1])}.W_x.",
    r"decoder\.(\d)\.gate\.psi\.": lambda found: f"Att{5 - int(found[1])}.psi.",
    r"decoder\.(\d)\.merge\.": lambda found: f"Up_conv{5 - int(found[1])}.conv.",
    r"head\.": lambda found: "Conv_1x1.",
}


def renamed(key: str) -> str:
    """The key of the published code for one of ours."""
    for pattern, name in NAMES.items():
        if found := re.match(pattern, key):
            return name(found) + key[found.end() :]
    raise KeyError(key)


weights = load_file(shipped_checkpoints()["lungs-attention-unet-2d"])
torch.save({renamed(key): tensor for key, tensor in weights.items()}, "theirs.pth")
shutil.copy(sample_scan(), "chest.nrrd")
shutil.copy(sample_labels(), "chest.seg.nrrd")
