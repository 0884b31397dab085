"""Which tool a folder is from, and its network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medattn_edge.errors import InputError, quoted

if TYPE_CHECKING:
    from medattn_edge.models.checkpoint import Checkpoint

MONAI, NNUNET = "monai", "nnunet"


@dataclass(frozen=True)
class OwnersFolder:
    """What such a folder holds.

    Attributes:
        kind: monai or nnunet.
        checkpoint: the network with the spec that the folder gives it.
        assumptions: where this house does otherwise than the tool, and what was taken for granted.
    """

    kind: str
    checkpoint: Checkpoint
    assumptions: tuple[str, ...]


def kind_of_folder(path: Path) -> str | None:
    """monai, nnunet, or None for what is neither."""
    if (path / "configs").is_dir() and not (path / "plans.json").is_file():
        return MONAI
    return NNUNET if (path / "plans.json").is_file() or (path / "dataset.json").is_file() else None


def read_folder(path: Path, *, orientation: str = "", fold: str = "") -> OwnersFolder:
    """The network and the spec of a MONAI bundle or of nnU-Net's results.

    Args:
        path: the folder.
        orientation: of the arrays that the network was trained on, where the folder does not say it.
        fold: of nnU-Net, such as 0 or all; empty: the only one.

    Raises:
        InputError: for a folder of neither, or one whose facts have no place in a spec.
        CheckpointError: for weights that cannot be read or do not fit.
        UsageError: for what must be said, and is not.
        MissingDependency: for the library that builds the network.
    """
    kind = kind_of_folder(path)
    if kind == MONAI:
        from medattn_edge.bundles.monai import read_bundle

        return OwnersFolder(kind, *read_bundle(path, orientation))
    if kind == NNUNET:
        from medattn_edge.bundles.nnunet import read_results

        return OwnersFolder(kind, *read_results(path, orientation, fold))
    raise InputError(
        f"{path} is neither a MONAI bundle nor a folder of nnU-Net's results",
        expected="configs/metadata.json and configs/inference.json, or plans.json and dataset.json",
        hint=f"ls {quoted(path)}",
    )
