"""A TorchScript artifact is the eager network at every size that it takes, and carries no trace of its maker."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest
import torch

from medattn_edge.agreement import LogitsDistance
from medattn_edge.artifact import Artifact, sha256
from medattn_edge.backends import open_session
from medattn_edge.exporters import ExportSettings, random_patches

pytestmark = pytest.mark.slow


@pytest.fixture
def exported(form, export_form):
    """The form's artifact of any batch, with attention maps where it has them."""
    return export_form(form, ".torchscript", ExportSettings(None, attention=form.settings.get("gates") != "none"))


def check_answers(exported: Any, sizes: list[tuple[int, ...]], counts: list[int]) -> None:
    """Every size and batch gives what the eager network gives."""
    artifact, checkpoint, settings = exported
    spec, network = checkpoint.spec, checkpoint.network
    with open_session(artifact.path) as session, torch.inference_mode():
        for size in sizes:
            for count in counts:
                patches = random_patches(spec.with_patch(size), count, seed=6)
                logits, maps = network.forward_attention(torch.from_numpy(patches))
                distance = LogitsDistance()
                distance.add(logits.numpy(), session.run(patches))
                assert distance.sqnr_db >= 90
                if settings.attention:
                    again, found = session.run_with_attention(patches)
                    np.testing.assert_array_equal(again, session.run(patches))
                    np.testing.assert_allclose(found, maps.numpy(), rtol=1e-4, atol=1e-5)


def test_the_artifact_answers_as_the_eager_network_does_at_other_sizes_too(form, exported):
    check_answers(exported, [form.size, form.other], [1, 3])


def test_the_manifest_says_what_the_artifact_is(exported):
    artifact, checkpoint, settings = exported
    manifest = Artifact.read(artifact.path).manifest
    assert manifest == artifact.manifest
    assert (manifest.exporter, manifest.precision, manifest.batch) == ("torchscript", "fp32", None)
    assert (manifest.sha256, manifest.parent_sha256) == (sha256(artifact.path), checkpoint.sha256)
    assert manifest.attention_maps == (checkpoint.network.attention_names if settings.attention else ())
    assert "aten::batch_norm" not in manifest.operators
    assert manifest.agreement[0]["sqnr_db"] >= 90


def test_nothing_of_this_machine_is_in_the_file(exported):
    content = exported.artifact.path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert {name.split("/")[0] for name in archive.namelist()} == {"archive"}
    for trace in (b"/work", b"/home", b"/usr", b"/tmp", b"site-packages", b".tmp."):
        assert trace not in content, trace


@pytest.mark.slow
@pytest.mark.parametrize("attention", [False, True], ids=["logits", "attention"])
@pytest.mark.parametrize("batch", [1, None], ids=["batch-1", "dynamic"])
def test_every_way_to_export_gives_the_network(form, export_form, batch, attention):
    if attention and form.settings.get("gates") == "none":
        pytest.skip("has no attention")
    exported = export_form(form, ".torchscript", ExportSettings(batch, attention=attention))
    check_answers(exported, [form.size, form.other], [1] if batch else [1, 2])
