"""The FP32 gate knows what FP32 is worth in a network: its own distance from FP64."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medattn_edge.agreement import Thresholds
from medattn_edge.backends.check import CachedReference, check
from medattn_edge.backends.compiler import CompileSettings
from medattn_edge.backends.session import Session
from medattn_edge.backends.torch.eager import EagerSession
from medattn_edge.backends.torch.fp64 import logits_in_fp64
from medattn_edge.compile import compile_artifact
from medattn_edge.errors import AgreementError
from medattn_edge.exporters import export_fp32, random_patches
from medattn_edge.gates import FP32
from medattn_edge.models import build
from medattn_edge.models.checkpoint import Checkpoint, save
from medattn_edge.rewrites import rewrite
from medattn_edge.spec import ModelSpec
from tests.support.networks import randomised

SPEC = ModelSpec(
    "attention-unet-monai", 1, ("background", "organ"), (32, 32), (4, 4), config={"dims": 2, "channels": [8, 16, 32]}
)
GATE = FP32.thresholds
OLD_FLOOR_DB = FP32.limits["min_sqnr_db"]


@pytest.fixture(scope="module")
def sound() -> Checkpoint:
    """A network whose answer FP32 hardly changes."""
    torch.manual_seed(0)
    return Checkpoint(randomised(build(SPEC)), SPEC, "c" * 64, "medattn_edge", foreign=False, notes={})


@pytest.fixture(scope="module")
def raw_hu() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Values as a scanner stores them, far from 0 and close to each other."""
    return 3000 + 15 * random_patches(SPEC, 2, seed=3)


@pytest.fixture(scope="module")
def ill_conditioned(sound: Checkpoint, raw_hu: np.ndarray[Any, np.dtype[np.float32]]) -> Checkpoint:
    """A network trained on raw HU: its first convolution is large, its first BatchNorm takes nearly all of it away."""
    network = copy.deepcopy(sound.network)
    convolution, norm = network.get_submodule("encoder.0.0"), network.get_submodule("encoder.0.1")
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        taps = torch.zeros_like(convolution.weight)
        taps[:, :, 1, 1] = 100.0 * convolution.weight[:, :, 1, 1]  # no neighbours: the border is like the rest
        convolution.weight.copy_(taps)
        answer = convolution(torch.from_numpy(raw_hu)).double()
        norm.running_mean, norm.running_var = answer.mean((0, 2, 3)).float(), answer.var((0, 2, 3)).float()
    return replace(sound, network=network.eval())


def test_an_ill_conditioned_network_is_held_to_its_own_noise(
    ill_conditioned: Checkpoint, raw_hu: Any, tmp_path: Path
) -> None:
    artifact = export_fp32(rewrite(ill_conditioned, ("batch-norm",)), tmp_path / "net.onnx", {"scan": raw_hu})
    [case] = artifact.manifest.agreement
    assert case["sqnr_db"] < OLD_FLOOR_DB, "the case is not the one that the fixed floor refused"
    own, ours, limits = case["reference_fp64_sqnr_db"], case["fp64_sqnr_db"], case["thresholds"]
    assert limits["min_fp64_sqnr_db"] == pytest.approx(own - 12, abs=0.01)
    assert ours >= limits["min_fp64_sqnr_db"] >= FP32.limits["min_fp64_sqnr_db"]
    assert limits["min_sqnr_db"] < OLD_FLOOR_DB
    assert case["label_match"] == 1.0


def test_a_small_fault_in_one_weight_of_a_sound_network_is_refused_where_the_fixed_floor_let_it_pass(
    sound: Checkpoint, tmp_path: Path
) -> None:
    noise = {"random": random_patches(SPEC, 2)}
    wrong = copy.deepcopy(sound.network)
    with torch.no_grad():
        weight = wrong.get_submodule("encoder.0.0").weight
        assert isinstance(weight, torch.Tensor)
        weight[0, 0, 1, 1] *= 1 + 1e-4
    faulty, path = replace(rewrite(sound, ()), network=wrong), tmp_path / "net.torchscript"
    assert export_fp32(faulty, tmp_path / "old.torchscript", noise, gate=GATE.without_fp64()).path.exists()
    with pytest.raises(AgreementError, match=r"SQNR from FP64 in dB \(of the reference itself: 1[23]\d") as refused:
        export_fp32(faulty, path, noise)
    assert "min_fp64_sqnr_db 110" in str(refused.value)
    assert not path.exists()
    assert export_fp32(rewrite(sound, ()), path, noise).path.exists()


def test_bf16_is_not_taken_for_fp32_even_there(ill_conditioned: Checkpoint, raw_hu: Any, tmp_path: Path) -> None:
    rounded = copy.deepcopy(ill_conditioned.network).bfloat16().float()
    with pytest.raises(AgreementError, match="SQNR from FP64"):
        export_fp32(
            replace(rewrite(ill_conditioned, ()), network=rounded), tmp_path / "net.torchscript", {"scan": raw_hu}
        )


@pytest.mark.parametrize(
    ("own", "limit", "apart"),
    [
        (140.0, 110.0, 90.0),  # what is always enough
        (91.6, 79.6, 77.66),  # four times the noise, and what two answers may then be apart
        (102.0, 90.0, 88.06),
        (105.0, 93.0, 90.0),  # from here on not a bit less than before
        (80.0, 75.0, 71.12),  # BF16 begins
    ],
)
def test_the_limit_follows_the_references_own_noise(own: float, limit: float, apart: float) -> None:
    given = GATE.given_noise(own)
    assert (given.min_fp64_sqnr_db, given.min_sqnr_db) == (pytest.approx(limit), pytest.approx(apart, abs=0.02))
    assert given.min_label_match == GATE.min_label_match
    assert given.given_noise(own) == given


def test_a_gate_that_says_nothing_of_noise_stays_as_it_is() -> None:
    asked = Thresholds(min_sqnr_db=40.0, min_dice=0.9995)
    assert asked.given_noise(91.6) == asked == asked.without_fp64()


class AnotherAnswerLater(Session):
    """The reference on the first patch of every run, a little more on the others."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.spec, batch=session.batch, fixed_patch=session.fixed_patch, facts=session.facts)
        self._session = session

    def _run(self, patches: Any) -> Any:
        logits = self._session.run(patches)
        logits[1:] *= 1.01
        return logits


def test_patches_that_are_not_computed_in_fp64_are_held_to_the_reference(sound: Checkpoint) -> None:
    reference = EagerSession(sound.network, SPEC)
    with pytest.raises(AgreementError, match=r"SQNR in dB is .*, below 90"):
        check(reference, AnotherAnswerLater(reference), {"random": random_patches(SPEC, 2)}, GATE)


def test_fp64_is_computed_once_for_all_candidates(sound: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    from medattn_edge.backends.torch import fp64

    runs = []
    real = fp64.logits_in_fp64
    monkeypatch.setattr(
        fp64, "logits_in_fp64", lambda network, patches: runs.append(len(patches)) or real(network, patches)
    )
    reference = CachedReference(EagerSession(sound.network, SPEC))
    for _ in range(3):
        check(reference, EagerSession(sound.network, SPEC), {"random": random_patches(SPEC, 2)}, GATE)
    assert runs == [1]


class InsistsOnFp32(nn.Module):
    """Makes a tensor of its own, whose type nobody changes."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(image, torch.ones(2, 1, 1, 1, dtype=torch.float32))


def test_a_network_that_insists_on_fp32_has_no_fp64_answer() -> None:
    patches = random_patches(SPEC, 1)
    assert logits_in_fp64(InsistsOnFp32(), patches) is None
    assert logits_in_fp64(nn.Sequential(nn.Conv2d(1, 2, 1)), patches).dtype == np.float64  # type: ignore[union-attr]


@pytest.mark.parametrize("slab", [1, 2**28])
@pytest.mark.parametrize(
    "settings", [{"padding": 1}, {"padding": (2, 1, 0), "dilation": (2, 1, 1)}, {"stride": 2, "groups": 2}]
)
def test_volumes_are_convolved_in_slabs(slab: int, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medattn_edge.backends.torch.fp64._SLAB_BYTES", slab)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(2, 4, 3, **settings))
    patches = np.random.default_rng(0).random((2, 2, 9, 7, 6), dtype=np.float32)
    with torch.inference_mode():
        expected = copy.deepcopy(network).double()(torch.from_numpy(patches).double()).numpy()
    found = logits_in_fp64(network, patches)
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    assert network[0].weight.dtype == torch.float32


def test_what_is_compiled_of_a_checkpoint_is_held_to_its_noise_and_of_a_graph_to_the_table(
    ill_conditioned: Checkpoint, raw_hu: Any, tmp_path: Path
) -> None:
    source = tmp_path / "net.safetensors"
    save(source, ill_conditioned.network, SPEC)
    graph = export_fp32(rewrite(ill_conditioned, ()), tmp_path / "net.onnx", {"scan": raw_hu})
    reference = EagerSession(ill_conditioned.network, SPEC)
    [case] = check(reference, EagerSession(ill_conditioned.network, SPEC), {"scan": raw_hu}, GATE)
    assert case["reference_fp64_sqnr_db"] == pytest.approx(case["fp64_sqnr_db"])
    compiled = compile_artifact(
        graph.path, tmp_path / "net.ort", "onnxruntime", CompileSettings(threads=1), {"scan": raw_hu}
    )
    for case in compiled.manifest.agreement:
        assert "fp64_sqnr_db" not in case
        assert case["thresholds"] == GATE.without_fp64().to_json()
