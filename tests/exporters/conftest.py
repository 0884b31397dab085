"""Every network form, exported once: exporting is slow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from medattn_edge.artifact import Artifact
from medattn_edge.exporters import ExportSettings, export_fp32, random_patches
from medattn_edge.models.checkpoint import Checkpoint
from medattn_edge.rewrites import rewrite
from tests.support.forms import form_checkpoint


class Exported(NamedTuple):
    """An artifact, the checkpoint that it was made from, and how."""

    artifact: Artifact
    checkpoint: Checkpoint
    settings: ExportSettings


@pytest.fixture(scope="session")
def export_form(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Any, str, ExportSettings], Exported]:
    """Exports a form with its BatchNorms folded; asked for the same again, gives the same file."""
    done: dict[Any, Exported] = {}

    def export_one(form: Any, suffix: str, settings: ExportSettings) -> Exported:
        key = (repr(form), suffix, settings)
        if key not in done:
            checkpoint = form_checkpoint(form)
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
