"""An activation at the very end is cut off, so that the artifact answers logits, and it is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import medattn_edge as me
from tests.foreign.networks import Encoder2d, moved


@pytest.mark.parametrize("form", ["onnx", "legacy", "script", "exported"])
@pytest.mark.parametrize(
    ("end", "activation", "labels"),
    [
        (nn.Softmax(1), "softmax", ("background", "class_1", "class_2")),
        (nn.LogSoftmax(1), "softmax", ("background", "class_1", "class_2")),
        (nn.Sigmoid(), "softmax", ("background", "class_1")),
        (nn.Sigmoid(), "sigmoid", ("region_1", "region_2")),
    ],
)
def test_the_artifact_answers_what_was_before_the_activation(form, end, activation, labels, image_2d, save, tmp_path):
    torch.manual_seed(4)
    outputs = 1 if end.__class__ is nn.Sigmoid and activation == "softmax" else len(labels)
    network = moved(Encoder2d(outputs, end), image_2d)
    found = me.read_foreign(save(network, image_2d, form), patch=(32, 32))
    assert (found.spec.activation, found.spec.labels) == (activation, labels)
    assert found.spec.config["activation_removed"] == type(end).__name__
    assert any("is cut off: the artifact answers logits" in text for text in found.notes)
    artifact = me.export(found, tmp_path / "net.onnx", samples={"image": image_2d.numpy()})
    assert type(end).__name__ not in artifact.manifest.operators
    network.end = None
    with me.open_session(tmp_path / "net.onnx") as session, torch.inference_mode():
        np.testing.assert_allclose(session.run(image_2d.numpy()), network(image_2d).numpy(), atol=1e-4)
