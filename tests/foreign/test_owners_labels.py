"""Whatever form a network of somebody else comes in, its artifact gives exactly the labels that its owner sees."""

from __future__ import annotations

import numpy as np
import pytest

import medattn_edge as me
from medattn_edge.artifact import Artifact
from medattn_edge.exporters import ExportSettings
from medattn_edge.foreign import ForeignNetwork
from tests.foreign.conftest import labels_by_owner, volume_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("form", ["onnx", "legacy", "script", "trace", "exported"])
@pytest.mark.parametrize("name", ["plain", "AttentionUnet", "UNet", "SegResNet"])
def test_export_and_infer_give_the_owners_labels(name, form, owners, save, tmp_path):
    network, image = owners(name)
    source = save(network, image, form)
    found = me.read_foreign(source, patch=tuple(image.shape[2:]))
    assert isinstance(found, ForeignNetwork)
    assert found.spec.network == f"foreign-{found.kind}"
    artifact = me.export(found, tmp_path / "net.onnx", samples={"image": image.numpy()})
    assert Artifact.read(tmp_path / "net.onnx").manifest == artifact.manifest
    assert min(case["sqnr_db"] for case in artifact.manifest.agreement) > 110
    expected = labels_by_owner(network, image)
    assert len(np.unique(expected)) > 1
    with me.open_session(tmp_path / "net.onnx") as session:
        labels = me.segment(session, volume_of(image)).labels.voxels
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("form", ["onnx", "legacy", "exported"])
def test_a_network_of_two_channels_with_a_second_output_is_taken_by_the_name_of_its_first(
    form, gated, image_3d, save, tmp_path
):
    names = {} if form == "exported" else {"output_names": ["seg", "side"]}
    source = save(gated, image_3d, form, **names)
    found = me.read_foreign(source, output="0" if form == "exported" else "seg")
    assert (found.spec.in_channels, found.spec.outputs, found.spec.patch) == (2, 2, (16, 16, 8))
    artifact = me.export(found, tmp_path / "net.onnx", samples={"image": image_3d.numpy()})
    with me.open_session(artifact.path) as session:
        labels = session.run(image_3d.numpy()).argmax(1)[0]
    np.testing.assert_array_equal(labels, labels_by_owner(gated, image_3d))


@pytest.mark.parametrize("patch", [(32, 32), (48, 64)])
@pytest.mark.parametrize("batch", [1, 2, None])
def test_free_axes_are_fixed_to_the_patch_and_the_batch_that_are_asked_for(
    patch, batch, plain, image_2d, save, tmp_path
):
    free = {0: "n", 2: "h", 3: "w"}
    source = save(plain, image_2d, "legacy", input_names=["x"], output_names=["y"], dynamic_axes={"x": free, "y": free})
    settings = ExportSettings(batch=batch)
    found = me.read_foreign(source, patch=patch, settings=settings)
    noise = np.random.default_rng(1).random((3, 1, *patch), np.float32)
    manifest = me.export(found, tmp_path / "net.onnx", samples={"image": noise}, settings=settings).manifest
    assert manifest.inputs == {"image": [batch or -1, 1, *patch]}
    assert not {"Shape", "Gather", "BatchNormalization"} & set(manifest.operators)


def test_the_opset_of_an_onnx_file_stays(plain, image_2d, save, tmp_path):
    import onnx

    found = me.read_foreign(save(plain, image_2d, "legacy", opset_version=17))
    me.export(found, tmp_path / "net.onnx", samples={"image": image_2d.numpy()})
    assert [one.version for one in onnx.load(str(tmp_path / "net.onnx")).opset_import if not one.domain] == [17]
    assert "it stays in opset 17" in found.notes
