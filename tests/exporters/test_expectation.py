"""The owner's logits decide: his network is found among what the file leaves open, or it is said why not."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medattn_edge.errors import AgreementError, InputError, MedattnError, ShapeError
from medattn_edge.exporters import Expectation, fit, read_expectation
from medattn_edge.exporters.search import FLOOR_DB, run
from medattn_edge.models import checkpoint

pytestmark = pytest.mark.slow

# ------------------------------------------------------------------------------- networks that their owners trained


def block(c_in: int, c_out: int, act: Any, eps: float) -> nn.Module:
    """conv_block of the 2-D Attention U-Net that everybody copies."""
    whole = nn.Module()
    whole.conv = nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1),
        nn.BatchNorm2d(c_out, eps=eps),
        act(),
        nn.Conv2d(c_out, c_out, 3, padding=1),
        nn.BatchNorm2d(c_out, eps=eps),
        act(),
    )
    return whole


class OwnersUNet(nn.Module):
    """A 2-D Attention U-Net as a plain module under the names of AttU_Net, with its owner's own choices."""

    def __init__(self, *, upsample: dict[str, Any] | None = None, act: Any = nn.ReLU, eps: float = 1e-5) -> None:
        super().__init__()
        width = [4, 8, 16, 32, 64]
        for level, (above, here) in enumerate(itertools.pairwise([1, *width]), start=1):
            setattr(self, f"Conv{level}", block(above, here, act, eps))
        for level in range(5, 1, -1):
            here = width[level - 2]
            up = nn.Module()
            up.up = nn.Sequential(
                nn.Upsample(scale_factor=2, **(upsample or {})),
                nn.Conv2d(2 * here, here, 3, padding=1),
                nn.BatchNorm2d(here, eps=eps),
                act(),
            )
            gate = nn.Module()
            for name, c_in, c_out in (("W_g", here, here // 2), ("W_x", here, here // 2), ("psi", here // 2, 1)):
                setattr(gate, name, nn.Sequential(nn.Conv2d(c_in, c_out, 1), nn.BatchNorm2d(c_out, eps=eps)))
            setattr(self, f"Up{level}", up)
            setattr(self, f"Att{level}", gate)
            setattr(self, f"Up_conv{level}", block(2 * here, here, act, eps))
        self.Conv_1x1 = nn.Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for level in range(1, 6):
            x = getattr(self, f"Conv{level}").conv(x if level == 1 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        for level in range(5, 1, -1):
            up, gate, skip = getattr(self, f"Up{level}").up(x), getattr(self, f"Att{level}"), skips[level - 2]
            psi = torch.sigmoid(gate.psi(torch.relu(gate.W_g(up) + gate.W_x(skip))))
            x = getattr(self, f"Up_conv{level}").conv(torch.cat((skip * psi, up), 1))
        return self.Conv_1x1(x)


def trained(network: nn.Module) -> nn.Module:
    """With statistics and weights as training leaves them, so that every part reaches the logits."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                scale = (2 / module.weight[0].numel()) ** 0.5
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * scale)
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.2)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) * 0.8 + 0.2)
    return network.eval()


def owners(kind: Any) -> tuple[nn.Module, tuple[int, ...]]:
    """A network as its owner trained it, and the size of his patch."""
    torch.manual_seed(1)
    if isinstance(kind, dict):
        return trained(OwnersUNet(**kind)), (32, 48)
    nets = pytest.importorskip("monai.networks.nets")
    dims, strides, size, extra = kind
    return trained(nets.AttentionUnet(dims, 1, 3, [4, 8, 6, 8][: len(strides) + 1], strides, **extra)), size


def answer(network: nn.Module, size: tuple[int, ...], count: int = 1, seed: int = 3) -> Expectation:
    image = torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return Expectation(image.numpy(), network(image).numpy(), "case.npz")


def pair(folder: Path, kind: Any) -> tuple[checkpoint.Checkpoint, Expectation]:
    network, size = owners(kind)
    torch.save({"state_dict": network.state_dict(), "epoch": 9}, folder / "owner.pth")
    return checkpoint.load(folder / "owner.pth"), answer(network, size)


OWNERS: dict[str, Any] = {
    "as published": {},
    "bilinear": {"upsample": {"mode": "bilinear"}},
    "bilinear, corners aligned": {"upsample": {"mode": "bilinear", "align_corners": True}},
    "leaky": {"act": lambda: nn.LeakyReLU(0.01)},
    "leaky and bilinear": {"act": lambda: nn.LeakyReLU(0.2), "upsample": {"mode": "bilinear"}},
    "ELU": {"act": nn.ELU},
    "eps 1e-3": {"eps": 1e-3},
    "MONAI 2, 2": (2, (2, 2), (16, 16), {}),
    "MONAI 1, 2": (2, (1, 2), (16, 16), {}),
    "MONAI 4, 2": (2, (4, 2), (16, 16), {}),
    "MONAI 2, 2, 1": (2, (2, 2, 1), (16, 16), {}),
    "MONAI anisotropic": (3, ((2, 2, 1), (2, 2, 2)), (16, 16, 8), {}),
    "MONAI dropout": (2, (2, 1), (16, 16), {"dropout": 0.3}),
}
REFUSED: dict[str, Any] = {
    "bicubic": {"upsample": {"mode": "bicubic"}},
    "tanh": {"act": nn.Tanh},
    "MONAI kernel 5": (2, (2, 2), (16, 16), {"kernel_size": 5}),
    "MONAI kernel 5 up": (2, (2, 2), (16, 16), {"up_kernel_size": 5}),
    "MONAI 5, 3": (2, (5, 3), (30, 30), {}),
}


@pytest.mark.parametrize("kind", list(OWNERS))
def test_the_owners_network_is_found_and_gives_his_logits_elsewhere_too(kind, tmp_path):
    loaded, expected = pair(tmp_path, OWNERS[kind])
    fitted = fit(loaded, [expected])
    assert all(case.passes and case.sqnr_db > 90 for case in fitted.cases)
    network, size = owners(OWNERS[kind])
    other = answer(network, size, count=2, seed=11)
    found = run(fitted.checkpoint.network, other.images)
    assert np.abs(found - other.logits).max() <= 1e-4 * np.abs(other.logits).max()
    assert np.array_equal(found.argmax(1), other.logits.argmax(1))
    assert set(fitted.checkpoint.assumptions) == set(fitted.indifferent)
    assert json.loads(json.dumps(fitted.checkpoint.reading))["expectation"] == fitted.to_json()
    assert set(fitted.proven) | set(fitted.indifferent) >= set(loaded.assumptions)
    for key, value in fitted.proven.items():
        assert fitted.checkpoint.spec.config[key] == value


@pytest.mark.parametrize("kind", list(REFUSED))
def test_a_network_that_is_not_built_is_refused_with_the_nearest(kind, tmp_path):
    def attempt() -> None:
        loaded, expected = pair(tmp_path, REFUSED[kind])
        fit(loaded, [expected], limit=40)

    with pytest.raises(MedattnError) as refused:
        attempt()
    if isinstance(refused.value, AgreementError):
        assert "nearest is " in refused.value.found
        assert "class " in refused.value.found
    assert refused.value.hint


@pytest.mark.slow
def test_of_all_these_networks_none_is_silently_wrong(tmp_path):
    count: Counter[str] = Counter()
    for kind in (*OWNERS.values(), *REFUSED.values()):
        network, size = owners(kind)
        try:
            loaded, expected = pair(tmp_path, kind)
            fitted = fit(loaded, [expected], limit=40)
        except MedattnError:
            count["refused"] += 1
            continue
        other = answer(network, size, seed=21)
        found = run(fitted.checkpoint.network, other.images)
        right = np.array_equal(found.argmax(1), other.logits.argmax(1)) and np.allclose(found, other.logits, atol=1e-3)
        count["right" if right else "wrong"] += 1
    assert count == {"right": len(OWNERS), "refused": len(REFUSED)}


def test_what_is_assumed_already_is_tried_first_and_few_changes_before_many(tmp_path):
    loaded, expected = pair(tmp_path, OWNERS["leaky and bilinear"])
    seen: list[dict[str, Any]] = []
    fitted = fit(loaded, [expected], progress=lambda number, config: seen.append(config))
    assert seen[0] == {}
    assert [len(config) for config in seen[1:4]] == [1, 1, 1]
    assert seen[-1] == {"activation": "leaky_relu:0.2", "upsampling": "bilinear"}
    assert fitted.tried >= len(seen)


def test_settings_that_were_given_are_not_searched(tmp_path):
    network, size = owners(OWNERS["bilinear"])
    torch.save(network.state_dict(), tmp_path / "owner.pth")
    loaded = checkpoint.load(tmp_path / "owner.pth", config={"upsampling": "nearest"})
    with pytest.raises(AgreementError):
        fit(loaded, [answer(network, size)])


def test_a_setting_without_effect_on_the_case_stays_an_assumption(tmp_path):
    network = trained(OwnersUNet())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # so much variance that no eps shows
            module.running_var.mul_(1e7)
            module.weight.data.mul_(3e3)
    torch.save(network.state_dict(), tmp_path / "owner.pth")
    fitted = fit(checkpoint.load(tmp_path / "owner.pth"), [answer(network, (32, 32))])
    assert "norm_eps" in fitted.indifferent
    assert fitted.checkpoint.assumptions == fitted.indifferent
    assert fitted.proven["upsampling"] == "nearest"


def test_every_expectation_must_hold(tmp_path):
    loaded, expected = pair(tmp_path, OWNERS["bilinear"])
    wrong = Expectation(expected.images, np.roll(expected.logits, 3, axis=2), "wrong.npz")
    with pytest.raises(AgreementError, match=r"wrong\.npz"):
        fit(loaded, [expected, wrong])


def test_a_case_of_any_number_of_patches_and_another_size_is_taken(tmp_path):
    network, _ = owners(OWNERS["as published"])
    torch.save(network.state_dict(), tmp_path / "owner.pth")
    cases = [answer(network, (16, 48), count=3), answer(network, (48, 32))]
    assert len(fit(checkpoint.load(tmp_path / "owner.pth"), cases).cases) == 2


# ------------------------------------------------------------------------------------------ answers that are not logits


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).softmax(1).numpy()


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("softmax has been applied", softmax),
        ("log-softmax has been applied", lambda x: torch.from_numpy(x).log_softmax(1).numpy()),
        ("sigmoid has been applied", lambda x: torch.from_numpy(x).sigmoid().numpy()),
        ("other sign", lambda x: -x),
        ("scaled and shifted", lambda x: 3 * x + 1),
        ("in the order 2, 0, 1", lambda x: x[:, [2, 0, 1]]),
    ],
)
@pytest.mark.parametrize("kind", ["as published", "MONAI 1, 2"])
def test_what_was_done_to_the_logits_is_recognised(kind, words, change, tmp_path):
    loaded, expected = pair(tmp_path, OWNERS[kind])
    changed = Expectation(expected.images, np.ascontiguousarray(change(expected.logits), "f4"), "case.npz")
    with pytest.raises(AgreementError, match=words):
        fit(loaded, [changed])


def test_logits_of_other_weights_are_refused_saying_where_they_depart(tmp_path):
    loaded, expected = pair(tmp_path, OWNERS["as published"])
    network = OwnersUNet()
    torch.manual_seed(99)
    other = answer(network.eval(), (32, 48))
    with pytest.raises(AgreementError) as refused:
        fit(loaded, [Expectation(expected.images, other.logits, "other.npz")], limit=5)
    assert "of patch 0 is" in refused.value.found
    assert "none of 5 combinations" in refused.value.found
    assert "--expect-limit 20" in refused.value.hint


def test_half_precision_logits_do_not_pass(tmp_path):
    loaded, expected = pair(tmp_path, OWNERS["as published"])
    rounded = torch.from_numpy(expected.logits).bfloat16().float().numpy()
    with pytest.raises(AgreementError, match="nearest is") as refused:
        fit(loaded, [Expectation(expected.images, rounded, "half.npz")], limit=3)
    assert f"at least {FLOOR_DB:g} dB" in refused.value.expected


# --------------------------------------------------------------------------------------------------- files and shapes


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


GOOD = {"image": np.zeros((1, 1, 16, 16), "f4"), "logits": np.zeros((1, 3, 16, 16), "f4")}


def test_a_case_is_read_under_any_names_in_single_and_double_precision(tmp_path):
    path = saved(tmp_path / "case.npz", x=np.full((2, 1, 8, 8), 0.5), y=np.ones((2, 4, 8, 8), "f4"))
    case = read_expectation(path, image="x", logits="y")
    assert (case.images.shape, case.logits.shape, case.source) == ((2, 1, 8, 8), (2, 4, 8, 8), "case.npz")
    assert case.images.dtype == case.logits.dtype == np.float32
    assert (case.images == 0.5).all()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"image": GOOD["image"]}, "no array 'logits'"),
        ({"input": GOOD["image"], "logits": GOOD["logits"]}, "no array 'image'"),
        ({**GOOD, "logits": GOOD["logits"].argmax(1)}, "is int64"),
        ({**GOOD, "image": GOOD["image"].astype("i2")}, "is int16"),
        ({**GOOD, "logits": GOOD["logits"].astype("f2")}, "is float16"),
        ({**GOOD, "logits": GOOD["logits"].astype(bool)}, "is bool"),
        ({**GOOD, "logits": GOOD["logits"].astype(complex)}, "is complex128"),
        ({**GOOD, "logits": np.full((1, 3, 16, 16), np.nan, "f4")}, "not finite in its logits"),
        ({**GOOD, "image": np.full((1, 1, 16, 16), 1e300)}, "not finite in its image"),
        ({**GOOD, "logits": np.zeros((1, 3, 16, 8), "f4")}, "logits of shape"),
        ({**GOOD, "logits": np.zeros((2, 3, 16, 16), "f4")}, "logits of shape"),
        ({**GOOD, "logits": np.zeros((1, 16, 16), "f4")}, "logits of shape"),
        ({"image": np.zeros((16, 16), "f4"), "logits": np.zeros((16, 16), "f4")}, "image of shape"),
        ({"image": np.zeros((0, 1, 16, 16), "f4"), "logits": np.zeros((0, 3, 16, 16), "f4")}, "image of shape"),
        ({**GOOD, "logits": np.array([{"a": 1}], dtype=object)}, "cannot be read"),
    ],
)
def test_a_case_that_cannot_be_used_is_refused(arrays, words, tmp_path):
    with pytest.raises(InputError) as refused:
        read_expectation(saved(tmp_path / "case.npz", **arrays))
    assert words in refused.value.found
    assert "case.npz" in refused.value.found
    assert refused.value.expected
    assert refused.value.hint


@pytest.mark.parametrize("content", [b"", b"not a zip at all", b"PK\x03\x04" + b"\0" * 40])
def test_a_file_that_is_no_case_is_refused(content, tmp_path):
    (tmp_path / "case.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"case\.npz"):
        read_expectation(tmp_path / "case.npz")
    with pytest.raises(InputError, match="is not a file"):
        read_expectation(tmp_path / "none.npz")


def test_a_case_that_is_cut_short_is_refused(tmp_path):
    whole = saved(tmp_path / "case.npz", **GOOD).read_bytes()
    for cut in (10, 100, len(whole) // 2, len(whole) - 5):
        (tmp_path / "case.npz").write_bytes(whole[:cut])
        with pytest.raises(InputError):
            read_expectation(tmp_path / "case.npz")


@pytest.mark.parametrize(
    ("image", "logits", "words"),
    [
        ((1, 2, 16, 16), (1, 3, 16, 16), "2 input channels"),
        ((1, 1, 16, 16), (1, 4, 16, 16), "4 outputs"),
        ((1, 1, 16, 16, 16), (1, 3, 16, 16, 16), "3-D network"),
        ((1, 1, 17, 16), (1, 3, 17, 16), "cannot take the size 17x16"),
    ],
)
def test_a_case_of_another_network_is_refused(image, logits, words, tmp_path):
    loaded, _ = pair(tmp_path, OWNERS["as published"])
    with pytest.raises(ShapeError) as refused:
        fit(loaded, [Expectation(np.zeros(image, "f4"), np.zeros(logits, "f4"), "case.npz")])
    assert words in refused.value.found
    assert "case.npz" in refused.value.found
