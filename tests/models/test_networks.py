"""What every network promises: its size, its cost, the shapes it takes, its settings and what training sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from medattn_edge.errors import CheckpointError, ShapeError, UsageError
from medattn_edge.models import build, construct, network_record, networks
from medattn_edge.models.flops import gflop
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.models.resnet import BACKBONES
from medattn_edge.spec import ModelSpec
from tests.support.networks import randomised

NEVER_EXECUTED = 955_412  # parameters of the published self-guided file that no forward pass touches
SMALL_SELF_GUIDED = {"backbone": "resnet18", "width": 16, "backbone_width": 16}

# name, settings, C, K, parameters as published, size, GFLOP as published
PUBLISHED = {
    "AttU_Net": ("attention-unet-2d", {}, 3, 1, 34_878_573, (256, 256), 132.85),
    "multi_att_dsv": ("attention-unet-3d", {}, 1, 4, 6_473_322, (160, 160, 96), 346.65),
    "resnext101_32x8d": ("self-guided", {}, 1, 5, 104_511_475 - NEVER_EXECUTED, (256, 256), 216.885),
    "resnext50_32x4d": (
        "self-guided",
        {"backbone": "resnext50_32x4d"},
        1,
        5,
        40_749_043 - NEVER_EXECUTED,
        (256, 256),
        185.06,
    ),
}
SMALL = {
    "attention-unet-2d": {"width": 4},
    "attention-unet-3d": {"width": 4},
    "attention-unet-grid": {"width": 4},
    "attention-unet-monai": {"channels": [4, 8]},
    "self-guided": {**SMALL_SELF_GUIDED, "width": 8},
}
SIZE = {2: (32, 32), 3: (16, 16, 16)}


def on_meta(name: str, settings: dict[str, Any], channels: int, classes: int) -> SegmentationNetwork:
    record = network_record(name)
    with torch.device("meta"):
        return construct(record, {**record.settings, **settings}, channels, classes).eval()


def spec_of(name: str, settings: dict[str, Any], channels: int = 1, outputs: int = 2) -> ModelSpec:
    dims = len(network_record(name).patch_for({**network_record(name).settings, **settings}))
    labels = ("background", *(f"organ_{index}" for index in range(1, max(2, outputs))))
    return ModelSpec(name, channels, labels, SIZE[dims], SIZE[dims], outputs=outputs, config=settings)


def parameters(network: torch.nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())


@pytest.mark.parametrize("case", list(PUBLISHED))
def test_a_published_configuration_has_its_published_parameters_and_cost(case):
    name, settings, channels, classes, wanted, size, gflop = PUBLISHED[case]
    network = on_meta(name, settings, channels, classes)
    assert parameters(network) == wanted
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, channels, *size, device="meta"))
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, rel=1e-3)


@pytest.mark.parametrize(("gates", "wanted"), [("multi", 6_473_322), ("single", 6_214_151), ("none", 5_888_004)])
def test_the_3d_network_has_the_published_parameters_with_every_kind_of_gate(gates, wanted):
    assert parameters(on_meta("attention-unet-3d", {"gates": gates}, 1, 4)) == wanted


def test_attention_maps_cost_less_than_a_hundredth_of_the_gated_network():
    network = on_meta("attention-unet-3d", {}, 1, 4)
    image, costs = torch.empty(1, 1, 96, 96, 96, device="meta"), []
    for run in (network, network.forward_attention):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run(image)
        costs.append(counter.get_total_flops())
    assert costs[0] <= costs[1] <= 1.01 * costs[0]


@pytest.mark.parametrize("backbone", list(BACKBONES))
@torch.inference_mode()
def test_every_backbone_builds_and_runs(backbone):
    network = build(spec_of("self-guided", {"backbone": backbone, "width": 8, "backbone_width": 16}, outputs=3))
    logits = network(torch.rand(1, 1, 32, 48))
    assert logits.shape == (1, 3, 32, 48)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("channels", "outputs"), [(1, 1), (3, 2), (4, 7)])
@pytest.mark.parametrize("name", list(SMALL))
@torch.inference_mode()
def test_channels_and_classes_are_free(name, channels, outputs):
    network = build(spec_of(name, SMALL[name], channels, outputs))
    size = SIZE[len(network.stride)]
    assert network(torch.rand(2, channels, *size)).shape == (2, outputs, *size)


def test_every_network_has_a_small_form_here():
    assert sorted(SMALL) == sorted(networks())


@pytest.mark.parametrize("name", ["attention-unet-2d", "attention-unet-3d", "attention-unet-grid", "self-guided"])
def test_width_scales_the_network(name):
    narrow, wide = (parameters(on_meta(name, {**SMALL[name], "width": width}, 1, 2)) for width in (8, 16))
    assert narrow < wide


def test_a_fresh_network_is_in_evaluation_mode(network):
    assert isinstance(network, SegmentationNetwork)
    assert not any(module.training for module in network.modules())


@torch.inference_mode()
def test_the_logits_of_a_small_form_depend_on_the_image(form, network):
    one, other = network(torch.randn((2, form.channels, *form.size), generator=torch.Generator().manual_seed(6)))
    assert (one - other).std() > 0.1 * one.std() > 1e-3 * one.abs().max()


@torch.inference_mode()
def test_a_sample_does_not_depend_on_its_neighbours_in_the_batch(form, network):
    images = torch.randn((2, form.channels, *form.size), generator=torch.Generator().manual_seed(3))
    both, first = network(images), network(images[:1])
    torch.testing.assert_close(both[:1], first, rtol=0, atol=1e-5 * float(first.std()))


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("self-guided", {"channel_energy": "inverted"}, {"channel_energy": "direct"}),
        ("attention-unet-3d", {"align_corners": False}, {"align_corners": True}),
        ("attention-unet-grid", {"align_corners": False}, {"align_corners": True}),
    ],
)
@torch.inference_mode()
def test_a_switch_without_weights_changes_the_function(name, one, other):
    torch.manual_seed(1)
    first = randomised(build(spec_of(name, {**SMALL[name], **one})))
    second = build(spec_of(name, {**SMALL[name], **other}))
    second.load_state_dict(first.state_dict())
    image = torch.rand(1, 1, *((64, 64) if name == "self-guided" else (32, 32, 16)))
    wanted, found = first(image), second(image)
    assert (wanted - found).abs().max() > 1e-3 * wanted.std()


@pytest.mark.parametrize(
    ("name", "setting", "article"),
    [
        ("self-guided", "autoencoder", "per_scale"),
        ("attention-unet-3d", "strided_theta", False),
        ("attention-unet-grid", "strided_theta", False),
    ],
)
def test_the_articles_form_has_other_weights(name, setting, article):
    published, other = on_meta(name, SMALL[name], 1, 2), on_meta(name, {**SMALL[name], setting: article}, 1, 2)
    shapes = [{key: value.shape for key, value in one.state_dict().items()} for one in (published, other)]
    assert shapes[0] != shapes[1]


@torch.inference_mode()
def test_one_autoencoder_copied_to_every_scale_is_the_shared_one():
    shared = randomised(build(spec_of("self-guided", SMALL["self-guided"])))
    own = build(spec_of("self-guided", {**SMALL["self-guided"], "autoencoder": "per_scale"}))
    state = dict(shared.state_dict())
    for key, value in shared.state_dict().items():
        for member in range(1, 4):
            if "members.0." in key:
                state[key.replace("members.0.", f"members.{member}.")] = value
    own.load_state_dict(state)
    image = torch.rand(1, 1, 64, 64)
    assert torch.equal(own(image), shared(image))


@torch.inference_mode()
def test_training_sees_the_same_logits_and_what_its_loss_needs(form, network):
    image = torch.randn((2, form.channels, *form.other), generator=torch.Generator().manual_seed(4))
    outputs, logits = network.training_outputs(image), network(image)
    torch.testing.assert_close(outputs.logits, logits, rtol=0, atol=1e-6 * float(logits.std()))
    guided = form.name == "self-guided"
    assert len(outputs.side_logits) == {"self-guided": 8, "attention-unet-3d": 4}.get(form.name, 0)
    assert all(side.shape == logits.shape for side in outputs.side_logits)
    assert len(outputs.reconstructions) == (8 if guided else 0)
    assert len(outputs.latents) == (4 if guided else 0)
    for one, two in (*outputs.reconstructions, *outputs.latents):
        assert one.shape == two.shape
        assert not torch.equal(one, two)
    quarter = tuple(size // 4 for size in form.other)
    assert all(one.shape == (2, 32, *quarter) for one, _ in outputs.reconstructions)
    assert all(one.shape == (2, 128, *(size // 4 for size in quarter)) for one, _ in outputs.latents)


def test_every_parameter_takes_part_in_training(form, network):
    network.train()
    outputs = network.training_outputs(torch.rand(2, form.channels, *form.size))
    loss = outputs.logits.square().mean() + sum(side.square().mean() for side in outputs.side_logits)
    for one, two in (*outputs.reconstructions, *outputs.latents):
        loss = loss + (one - two).square().mean()
    loss.backward()
    idle = [name for name, value in network.named_parameters() if value.grad is None]
    assert idle == []
    assert all(torch.isfinite(value.grad).all() for value in network.parameters())


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
@torch.inference_mode()
def test_the_self_guided_maps_are_at_a_quarter_of_the_size_and_their_rows_sum_to_1(size):
    network = randomised(build(spec_of("self-guided", SMALL_SELF_GUIDED)))
    image = torch.rand(2, 1, *size)
    maps, quarter = network.attention(image), tuple(one // 4 for one in size)
    assert maps.position.shape == maps.guided.shape == (2, 4, *quarter)
    assert maps.channel.shape == (2, 4, 16, 16)
    torch.testing.assert_close(maps.channel.sum(-1), torch.ones(2, 4, 16))
    torch.testing.assert_close(maps.position.mean((2, 3)), torch.ones(2, 4), rtol=1e-4, atol=0)
    assert maps.channel.min() >= 0
    assert maps.guided.min() >= 0
    resized = network.forward_attention(image)[1]
    expected = torch.nn.functional.interpolate(torch.cat((maps.position, maps.guided), 1), size=size, mode="bilinear")
    torch.testing.assert_close(resized, expected)


@pytest.mark.parametrize(
    ("name", "size", "nearest"),
    [
        ("attention-unet-2d", (100, 100), "96x96"),
        ("attention-unet-2d", (104, 8), "112x16"),
        ("attention-unet-2d", (64,), "256x256"),
        ("attention-unet-2d", (64, 64, 64), "256x256"),
        ("attention-unet-3d", (16, 17, 30), "16x16x32"),
        ("attention-unet-grid", (32, 32, 1), "32x32x2"),
        ("attention-unet-monai", (31, 1), "32x2"),
        ("self-guided", (8, 8), "16x16"),
        ("self-guided", (64, 100), "64x104"),
    ],
)
def test_a_size_that_the_network_cannot_take_is_refused_with_the_nearest(name, size, nearest):
    network = on_meta(name, SMALL[name], 1, 2)
    with pytest.raises(ShapeError, match="cannot take the size " + "x".join(map(str, size))) as refused:
        network(torch.empty(1, 1, *size, device="meta"))
    assert refused.value.hint == f"the nearest is {nearest}"
    network.check_shape(tuple(map(int, nearest.split("x"))))


def test_the_grid_network_takes_one_slice_when_its_theta_keeps_the_grid():
    network = on_meta("attention-unet-grid", {**SMALL["attention-unet-grid"], "strided_theta": False}, 1, 2)
    assert network(torch.empty(1, 1, 32, 32, 1, device="meta")).shape == (1, 2, 32, 32, 1)


@pytest.mark.parametrize("name", list(SMALL))
@torch.inference_mode()
def test_the_smallest_size_runs_with_its_maps_and_in_training(name):
    network = build(spec_of(name, SMALL[name]))
    image = torch.rand(2, 1, *network.minimum)
    for logits in (network(image), network.forward_attention(image)[0], network.training_outputs(image).logits):
        assert logits.shape == (2, 2, *network.minimum)
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("attention-unet-2d", {"width": 0}),
        ("attention-unet-2d", {"width": -8}),
        ("attention-unet-2d", {"width": "8"}),
        ("attention-unet-2d", {"width": 8.0}),
        ("attention-unet-2d", {"width": True}),
        ("attention-unet-2d", {"width": None}),
        ("attention-unet-2d", {"width": 1}),  # its gates would have half a channel
        ("attention-unet-2d", {"widht": 8}),
        ("attention-unet-3d", {"gates": "double"}),
        ("attention-unet-3d", {"gates": ["multi"]}),
        ("attention-unet-3d", {"align_corners": "no"}),
        ("attention-unet-3d", {"align_corners": 0}),
        ("attention-unet-monai", {"dims": 4}),
        ("attention-unet-monai", {"channels": []}),
        ("attention-unet-monai", {"channels": 64}),
        ("attention-unet-monai", {"channels": [8, 0]}),
        ("attention-unet-monai", {"channels": [8, "16"]}),
        ("self-guided", {"backbone": "vgg16"}),
        ("self-guided", {"channel_energy": "directly"}),
        ("self-guided", {"autoencoder": "none"}),
        ("self-guided", {**SMALL_SELF_GUIDED, "backbone": "resnext50_32x4d", "backbone_width": 8}),
    ],
)
def test_settings_that_no_network_can_have_are_refused(name, settings):
    dims = len(network_record(name).patch)
    spec = ModelSpec(name, 1, ("background", "organ"), SIZE[dims], SIZE[dims], config=settings)
    with pytest.raises(CheckpointError) as refused:
        build(spec)
    assert str(next(reversed(settings))) in str(refused.value)
    assert refused.value.hint


def test_no_input_channel_is_refused():
    with pytest.raises(CheckpointError, match="in_channels is 0"):
        build(ModelSpec("attention-unet-2d", 0, ("background", "organ"), (32, 32), (16, 16), config={"width": 4}))


def test_a_patch_that_the_network_cannot_take_is_refused_when_it_is_built():
    with pytest.raises(ShapeError, match="the nearest is 16x16"):
        build(ModelSpec("self-guided", 1, ("background", "organ"), (8, 8), (8, 8), config=SMALL_SELF_GUIDED))


def test_a_network_that_is_not_known_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="attention-unet-2d"):
        network_record("attention-unet")


def test_networks_are_found_by_name_each_once():
    assert list(networks()) == sorted(record.name for record in networks().values())
    layouts = [layout.name for record in networks().values() for layout in record.layouts]
    assert len(set(layouts)) == len(layouts)


class Shared(torch.nn.Module):
    """One convolution under two names, as decoders keep their encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 2, 3, padding=1)
        self.same = torch.nn.Sequential(self.first)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.same(image)  # type: ignore[no-any-return]


def test_counting_leaves_a_network_with_shared_modules_as_it_was() -> None:
    network, spec = Shared(), spec_of("attention-unet-2d", {})
    assert gflop(network, spec) == pytest.approx(2 * 32 * 32 * 2 * 9 / 1e9)
    assert network.first.weight.device.type == "cpu"
    assert network.first is network.same[0]
