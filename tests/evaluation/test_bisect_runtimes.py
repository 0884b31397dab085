"""Faults of runtimes, which are in no file: named by the layer that the runtime computes otherwise than is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.backends.openvino.library import imported
from medattn_edge.evaluation.bisect import BisectSettings, advise, bisect
from medattn_edge.host import hardware
from medattn_edge.spec import ModelSpec
from tests.support.networks import export_checkpoint, random_checkpoint
from tests.support.planted import activation_scale, planted, quantised, scan_of, sha256, written

pytestmark = pytest.mark.slow
SETTINGS = BisectSettings(threads=1, samples=1)
X86 = hardware.cpu().architecture == "x86_64"
LABELS = ("background", "organ", "other")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def make(
        network: str, patch: tuple[int, ...], stride: tuple[int, ...], batch: int | None = 1, **config: Any
    ) -> Path:
        spec = ModelSpec(network, 1, LABELS, patch, stride, config=config)
        path = tmp_path_factory.mktemp(network) / "net.onnx"
        return export_checkpoint(random_checkpoint(spec, 3), path, batch=batch).path

    return make


@pytest.fixture(scope="module")
def in_2d(made: Callable[..., Path]) -> Path:
    return made("attention-unet-2d", (32, 32), (16, 16), width=16)


@pytest.mark.skipif(not X86, reason="OpenVINO's ARM plugin has other kernels")
def test_signed_int8_after_a_concat_is_named_in_openvino_and_in_no_other_runtime(in_2d: Path) -> None:
    s8s8 = quantised(in_2d, "onnxruntime", "tensorrt")
    amx = "amx_int8" in hardware.cpu().instruction_sets
    settings = BisectSettings(threads=1, samples=1, runtime="openvino-without-amx" if amx else "openvino")
    found = bisect(in_2d, s8s8, scan_of(in_2d), settings=settings)
    assert found.first is not None
    assert found.first.named.title == "decoder.0.merge.1"
    assert {one.named.title for one in found.leaving} == {f"decoder.{index}.merge.1" for index in range(4)}
    assert all(one.of_runtime for one in found.leaving)
    assert found.first.layer.operators == ("Concat", "Conv", "Relu")
    assert "the runtime computes something else" in found.first.causes[0]
    assert found.apart_db is not None
    assert found.apart_db > 40  # layers one by one are what the runtime makes of the whole
    first, *others = advise(found, "scan.npz")
    assert first.command.endswith("--runtime all")
    assert all("--quantizer" in one.command for one in others)
    assert bisect(in_2d, s8s8, scan_of(in_2d), settings=SETTINGS).passed


def ir(parent: Path, model: Any) -> Path:
    """A model of OpenVINO's as an artifact beside the file that it was made from."""
    ov = imported()
    path = parent.with_suffix(".xml")
    ov.save_model(model, str(path), compress_to_fp16=False)
    companions = {".bin": sha256(path.with_suffix(".bin"))}
    return written(parent, path, target={"compiler": "openvino"}, companions=companions)


def test_channel_attention_taken_for_another_is_named(made: Callable[..., Path]) -> None:
    """OpenVINO's own converter does so where the batch is free; `compile` and our sessions read files another way."""
    config = {"backbone": "resnet18", "width": 16, "backbone_width": 16, "channel_energy": "direct"}
    fp32 = made("self-guided", (32, 32), (8, 8), None, **config)
    found = bisect(fp32, ir(fp32, imported().convert_model(str(fp32))), scan_of(fp32), settings=SETTINGS)
    assert found.runtime.name == "openvino"
    assert found.first is not None
    assert found.first.named.title == "step2.scales.0.channel.attention"
    assert {one.named.title for one in found.leaving} == {
        f"step2.scales.{index}.channel.attention" for index in range(4)
    }
    assert all("Softmax" in one.layer.operators for one in found.leaving)
    assert found.matched[0] < found.matched[1]  # what it makes of an attention has no tensors inside


def test_openvinos_own_format_is_cut_by_the_names_of_the_tensors(in_2d: Path) -> None:
    path = ir(in_2d, imported().Core().read_model(str(in_2d)))
    found = bisect(in_2d, path, scan_of(in_2d), settings=SETTINGS)
    assert found.passed
    assert found.matched == (51, 51)
    fault = activation_scale("encoder.3.1.5", "Relu", 0.2)
    int8 = planted(quantised(in_2d, "onnxruntime", "cpu"), in_2d.with_name("lie.onnx"), fault)
    lie = ir(int8, imported().Core().read_model(str(int8)))
    found = bisect(in_2d, lie, scan_of(in_2d), settings=SETTINGS)
    assert [one.named.title for one in found.leaving] == ["encoder.3.1.4"]
    assert found.leaving[0].clipped > 0.01
