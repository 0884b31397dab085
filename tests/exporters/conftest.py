"""Every network form, exported once: exporting is slow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from medattn_edge.artifact import Artifact
from medattn_edge.exporters import ExportSettings, export_fp32, random_patches
from medattn_edge.models.checkpoint import Checkpoint
from medattn_edge.rewrites import rewrite
from medattn_edge.spec import ModelSpec


class Exported(NamedTuple):
    """An artifact, the checkpoint that it was made from, and how."""

    artifact: Artifact
    checkpoint: Checkpoint
    settings: ExportSettings


@pytest.fixture(scope="session")
def checkpoint_of(build_form: Callable[..., Any]) -> Callable[[Any], Checkpoint]:
    """A form's network as if it had been read from a file."""

    def make(form: Any) -> Checkpoint:
        network = build_form(form)
        spec = ModelSpec(
            network=form.name,
            in_channels=form.channels,
            labels=("background", *(f"organ_{index}" for index in range(1, max(2, form.classes)))),
            patch=form.size,
            stride=network.stride,
            outputs=form.classes,
            config=form.settings,
        )
        return Checkpoint(network, spec, "c" * 64, "medattn_edge", foreign=False, notes={})

    return make


@pytest.fixture(scope="session")
def export_form(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_of: Callable[[Any], Checkpoint]
) -> Callable[[Any, str, ExportSettings], Exported]:
    """Exports a form with its BatchNorms folded; asked for the same again, gives the same file."""
    done: dict[Any, Exported] = {}

    def export_one(form: Any, suffix: str, settings: ExportSettings) -> Exported:
        key = (repr(form), suffix, settings)
        if key not in done:
            checkpoint = checkpoint_of(form)
            done[key] = Exported(
                export_fp32(
                    rewrite(checkpoint, ("batch-norm",)),
                    tmp_path_factory.mktemp("exported") / f"network{suffix}",
                    {"random": random_patches(checkpoint.spec, 3)},
                    settings=settings,
                ),
                checkpoint,
                settings,
            )
        return done[key]

    return export_one


@pytest.fixture(scope="session")
def small(randomised: Callable[[Any], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the network that exports fastest."""
    import torch

    from medattn_edge.models import build
    from medattn_edge.models.checkpoint import save

    spec = ModelSpec(
        "attention-unet-monai",
        1,
        ("background", "organ"),
        (32, 32),
        (4, 4),
        config={"dims": 2, "channels": [8, 16, 32]},
    )
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save(path, randomised(build(spec)), spec)
    return path
