"""A file that is no network from one image to logits is refused with what was found, and nothing is written."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import medattn_edge as me
from medattn_edge.errors import AgreementError, InputError, MedattnError, UsageError
from medattn_edge.exporters import ExportSettings
from medattn_edge.precision.onnx_graph import in_order
from tests.foreign.networks import Encoder2d, Smaller, TwoImages, moved


def refused(kind: type[MedattnError], found: str, path: Path, **options) -> MedattnError:
    """The error of reading a file: of a kind, with words of what was found, an expectation and a next step."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(kind, match=found) as raised:
        me.read_foreign(path, **options)
    assert raised.value.expected
    assert raised.value.hint
    assert sorted(path.parent.rglob("*")) == before
    return raised.value


@pytest.fixture
def file(plain, image_2d, save) -> Path:
    return save(plain, image_2d, "legacy", input_names=["x"], output_names=["y"])


def changed(path: Path, change) -> Path:
    """The ONNX file, its ModelProto changed in place by a function."""
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(path))
    return path


def test_two_inputs_are_listed(image_2d, save):
    network, images = TwoImages().eval(), (image_2d, image_2d)
    path = save(network, images, "onnx", input_names=["ct", "pet"])
    refused(InputError, r"has 2 inputs: ct \(1, 1, 32, 32\), pet", path)
    refused(InputError, "has 2 inputs: x", save(network, images, "exported"))


def test_free_sizes_need_a_patch(plain, image_2d, save):
    axes = {"x": {0: "n", 2: "h", 3: "w"}}
    path = save(plain, image_2d, "legacy", input_names=["x"], dynamic_axes=axes)
    assert "--patch 256x256" in refused(UsageError, "whose sizes are free", path).hint
    refused(UsageError, "a patch of 3 sizes", path, patch=(8, 8, 8))


def test_free_channels_are_refused(file):
    def free(model):
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "c"

    refused(InputError, "number of channels is free", changed(file, free))


def test_another_patch_than_the_files_own_is_refused(file):
    assert "--patch 32x32" in refused(UsageError, "the patch 64x64", file, patch=(64, 64)).hint


def test_another_batch_than_the_files_own_is_refused(file):
    for batch in (2, None):
        assert "--batch 1" in refused(UsageError, "a batch of", file, settings=ExportSettings(batch=batch)).hint


def test_a_file_without_weights_is_refused(tmp_path):
    value = helper.make_tensor_value_info
    shape = [1, 2, 8, 8]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, shape)],
    )
    path = tmp_path / "empty.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), str(path))
    refused(InputError, "has no weights", path)


def test_custom_operators_are_counted(file):
    def custom(model):
        model.graph.node[0].domain = "com.microsoft"
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    refused(InputError, "has custom operators: 1 com.microsoft.Conv", changed(file, custom))


def test_half_precision_at_the_door_and_inside_is_refused(file, tmp_path):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    inside, outside = tmp_path / "inside.onnx", tmp_path / "outside.onnx"
    half = convert_float_to_float16(onnx.load(str(file)), keep_io_types=True)
    in_order(half)
    onnx.save(half, str(inside))
    onnx.save(convert_float_to_float16(onnx.load(str(file))), str(outside))
    refused(InputError, "weights in float16", inside)
    refused(InputError, "float16", outside)


def test_a_quantised_file_is_refused(file, tmp_path):
    from onnxruntime.quantization import quantize_dynamic

    quantised = tmp_path / "int8.onnx"
    quantize_dynamic(str(file), str(quantised), op_types_to_quantize=["Conv"])
    refused(InputError, "is quantised already", quantised)


def test_training_mode_is_refused(image_2d, save):
    training = Encoder2d().train()
    options = {"training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False}
    refused(InputError, "training mode: BatchNormalization", save(training, image_2d, "legacy", **options))
    refused(InputError, "training mode: aten::batch_norm", save(training, image_2d, "trace"), patch=(32, 32))


def test_logits_of_another_size_are_refused(image_2d, save):
    found = r"\(1, 2, 16, 16\) from an image \(N, 1, 32, 32\)"
    refused(InputError, found, save(Smaller().eval(), image_2d, "onnx"))


def test_several_outputs_are_listed(gated, image_3d, save):
    path = save(gated, image_3d, "legacy", output_names=["seg", "side"])
    assert "--output-name 'seg'" in refused(UsageError, r"2 outputs: seg \(1, 2, 16, 16, 8\); side", path).hint
    refused(UsageError, "no output 'logit'", path, output="logit")
    refused(UsageError, r"2 outputs: 0 \(1, 2, 16, 16, 8\)", save(gated, image_3d, "exported"))


def test_labels_instead_of_logits_are_refused_with_the_tensor_before_them(image_2d, plain, save):
    class Decided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain

        def forward(self, x):
            return self.net(x).argmax(1, keepdim=True)

    error = refused(InputError, "ends with ArgMax .*: decisions", save(Decided(), image_2d, "onnx"))
    assert "--output-name" in error.hint


def test_a_softmax_over_another_axis_is_refused(image_2d, save):
    refused(InputError, "a Softmax over axis 2", save(moved(Encoder2d(3, nn.Softmax(2)), image_2d), image_2d, "onnx"))


def test_a_softmax_that_something_follows_is_refused(image_2d, save):
    class Turned(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1).softmax(-1).permute(0, 3, 1, 2)

    path = save(moved(Encoder2d(3, Turned()), image_2d), image_2d, "onnx")
    refused(InputError, "ends with Softmax .* and then Transpose", path)


def test_probabilities_that_the_end_of_the_graph_does_not_show_are_refused(image_2d, save, tmp_path):
    class Mean(nn.Module):
        def forward(self, x):
            return 0.5 * (x.softmax(1) + (2 * x).softmax(1))

    found = me.read_foreign(save(moved(Encoder2d(3, Mean()), image_2d), image_2d, "onnx"))
    with pytest.raises(InputError, match="sum to 1 over the classes: they are probabilities"):
        me.export(found, tmp_path / "net.onnx", samples={"image": image_2d.numpy()})
    assert not (tmp_path / "net.onnx").exists()


def external(path: Path, location: str) -> Path:
    def outside(model):
        tensor = model.graph.initializer[0]
        (path.parent / "weights.bin").write_bytes(tensor.raw_data)
        onnx.external_data_helper.set_external_data(tensor, location)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL

    model = onnx.load(str(path))
    outside(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_of_its_own_folder_is_packed_in(file, plain, image_2d, tmp_path):
    path = external(file, "weights.bin")
    assert onnx.load(str(path), load_external_data=False).graph.initializer[0].data_location == TensorProto.EXTERNAL
    me.export(me.read_foreign(path), tmp_path / "net.onnx", samples={"image": image_2d.numpy()})
    (tmp_path / "weights.bin").unlink()
    with me.open_session(tmp_path / "net.onnx") as session, torch.inference_mode():
        np.testing.assert_allclose(session.run(image_2d.numpy()), plain(image_2d).numpy(), atol=1e-4)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "link.bin"])
def test_external_data_outside_its_folder_is_refused(location, file, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    path = Path(shutil.move(external(file, location), inner / "net.onnx"))
    (inner / "link.bin").symlink_to(tmp_path / "weights.bin")
    refused(InputError, "outside its folder", path)


def test_external_data_that_is_missing_or_short_is_refused(file, tmp_path):
    refused(InputError, "'lost.bin', which does not exist", external(file, "lost.bin"))


@pytest.mark.parametrize("name", ["net.onnx", "net.pt2", "net.ts"])
def test_bytes_that_are_no_network_are_refused(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"not a network at all" * 9)
    refused(InputError, "cannot be read as", path, patch=(8, 8))


@pytest.mark.parametrize("form", ["script", "exported"])
def test_a_cut_archive_is_refused(form, plain, image_2d, save):
    path = save(plain, image_2d, form)
    with zipfile.ZipFile(path) as whole:
        kept = {one: whole.read(one) for one in whole.namelist() if "data/" not in one}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in kept.items():
            archive.writestr(name, content)
    refused(InputError, "cannot be read as", path, patch=(32, 32))


def test_a_program_that_touches_files_is_not_run(image_2d, save, tmp_path):
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(1, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.save(x, "stolen.bin")
            return self.head(x)

    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(1, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x) + torch.from_file("/etc/hostname", False, 1).sum()

    for network, operator in ((Writes(), "aten::save"), (Maps(), "aten::from_file")):
        refused(InputError, f"calls {operator}, which touches files", save(network.eval(), image_2d, "script"))


def test_a_program_without_a_patch_is_asked_for_it(plain, image_2d, save):
    path = save(plain, image_2d, "script")
    assert "--patch 256x256" in refused(UsageError, "does not say the size of its input", path).hint
    refused(UsageError, "the settings width", path, patch=(32, 32), config={"width": 3})
    refused(InputError, r"fails on an image \(1, 4, 32, 32\)", path, patch=(32, 32), config={"in_channels": 4})


def test_double_precision_programs_are_refused(image_2d, save):
    network = Encoder2d().eval().double()
    refused(InputError, "not float32: .* is torch.float64", save(network, image_2d.double(), "trace"), patch=(32, 32))
    refused(InputError, "torch.float64", save(network, image_2d.double(), "exported"))


def test_an_artifact_is_not_exported_again(file, image_2d, tmp_path):
    me.export(me.read_foreign(file), tmp_path / "net.onnx", samples={"image": image_2d.numpy()})
    refused(UsageError, "is exported already", tmp_path / "net.onnx")


def test_a_checkpoint_without_code_is_no_foreign_network(plain, tmp_path):
    torch.save(plain.state_dict(), tmp_path / "w.pth")
    assert "--network" in refused(InputError, "is no ONNX, TorchScript", tmp_path / "w.pth").hint


def test_a_graph_that_computes_something_else_than_the_file_is_not_written(file, image_2d, tmp_path):
    found = me.read_foreign(file)
    kernel = max(found.graph.model.graph.initializer, key=lambda one: len(one.raw_data))
    kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel) * np.float32(1.01), kernel.name))
    with pytest.raises(AgreementError, match="the file as it came"):
        me.export(found, tmp_path / "net.onnx", samples={"image": image_2d.numpy()})
    assert not list(tmp_path.glob("net*"))


def test_only_onnx_is_written_of_it_and_without_attention_maps(file, image_2d, tmp_path):
    found = me.read_foreign(file)
    with pytest.raises(UsageError, match=r"net.torchscript cannot be written from this ONNX file"):
        me.export(found, tmp_path / "net.torchscript", samples={"image": image_2d.numpy()})
    settings = ExportSettings(attention=True)
    with pytest.raises(UsageError, match="attention maps"):
        me.export(found, tmp_path / "net.onnx", samples={"image": image_2d.numpy()}, settings=settings)
