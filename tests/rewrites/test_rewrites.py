"""A rewritten network is the same function, whichever rewrites are chosen, and the plan says what they saved."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch

from medattn_edge.errors import UsageError
from medattn_edge.rewrites import ALWAYS_GOOD, rewrite_network, rewrites
from medattn_edge.rewrites.cost import cost
from tests.support.forms import build_form

SAME = 1e-10
GATED_3D = {"attention-unet-3d-multi", "attention-unet-3d-single", "attention-unet-3d-article"}
UNETS_3D = GATED_3D | {"attention-unet-3d-none"}
MONAI = {"attention-unet-monai-2d", "attention-unet-monai-3d"}
GUIDED = {"self-guided", "self-guided-article"}
EVERY = GUIDED | UNETS_3D | MONAI | {"attention-unet-2d", "attention-unet-grid"}
CHANGES = {
    "attention-inputs": GUIDED,
    "batch-norm": EVERY,
    "batched-autoencoder": {"self-guided"},
    "channel-attention": GUIDED,
    "concat-sums": EVERY - GUIDED,
    "gate-outputs": GATED_3D,
    "gate-pairs": {"attention-unet-3d-multi", "attention-unet-3d-article"},
    "linear-heads": GUIDED,
    "nearest-upsampling": {"attention-unet-2d"},
    "pixel-shuffle": {"attention-unet-2d"} | GUIDED,
    "position-attention": GUIDED,
    "position-blocks": GUIDED,
    "position-projections": GUIDED,
    "position-sdpa": GUIDED,
    "scalar-prelu": MONAI | GUIDED,
    "shared-halves": {"self-guided"},
    "supervision-heads": UNETS_3D,
    "supervision-products": UNETS_3D,
    "training-parts": GUIDED,
    "transposed-convolution": GUIDED,
    "winograd": GUIDED | {"attention-unet-2d"},  # at these sizes they stay what they are: see test_winograd.py
}
ALL_BLOCKED = tuple(name for name in CHANGES if name != "position-sdpa")
ONLY_GUIDED = pytest.mark.parametrize("form", ["self-guided"], indirect=True)
ALL_BY_OPERATOR = tuple(name for name in CHANGES if name != "position-blocks")


@pytest.fixture
def key(request):
    """The form's key."""
    return request.node.callspec.params["form"]


@pytest.fixture(scope="module")
def known_answers():
    """Form key -> what `answers` made of it; it is the same for every test."""
    return {}


@pytest.fixture
def answers(key, form, known_answers, image):
    """The form's network in FP64 and, at each of its sizes, (image, logits, maps)."""
    if key not in known_answers:
        network = build_form(form).double()
        with torch.inference_mode():
            images = [image(form, size) for size in (form.size, form.other)]
            known_answers[key] = network, [(one, *network.forward_attention(one)) for one in images]
    return known_answers[key]


def names_of(rewritten: Any) -> set[str]:
    return {step.name for step in rewritten.plan}


@torch.inference_mode()
def check_same(network: Any, cases: Any, distance: Any) -> None:
    assert distance(network(cases[0][0]), cases[0][1]) <= SAME
    for one, logits, maps in cases:
        again, found = network.forward_attention(one)
        assert distance(again, logits) <= SAME
        assert distance(found, maps) <= SAME


def test_every_rewrite_is_listed_here_and_names_its_source():
    assert set(CHANGES) == set(rewrites())
    assert set(CHANGES) >= ALWAYS_GOOD
    for rewrite in rewrites().values():
        assert rewrite.title
        assert rewrite.source
        assert {*rewrite.needs, *rewrite.after, *rewrite.excludes} <= set(CHANGES)


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_a_rewrite_alone_is_the_same_function_where_it_changes_anything(name, key, answers, distance):
    network, cases = answers
    made = {"pixel-shuffle": ("nearest-upsampling", "transposed-convolution")}  # what it starts from
    rewritten = rewrite_network(network, (name, *made.get(name, ())))
    assert (name in names_of(rewritten)) == (key in CHANGES[name])
    if key in CHANGES[name]:
        check_same(rewritten.network, cases, distance)
        assert all(len(set(one.sites)) == len(one.sites) > 0 for one in rewritten.plan)


@pytest.mark.parametrize("names", [None, ALL_BLOCKED, ALL_BY_OPERATOR], ids=["good", "blocked", "by-operator"])
def test_all_together_are_the_same_function(key, answers, distance, names):
    network, cases = answers
    rewritten = rewrite_network(network, names)
    wanted = set(ALWAYS_GOOD if names is None else names)
    assert {name for name in wanted if key in CHANGES[name]} - {"pixel-shuffle"} <= names_of(rewritten)
    check_same(rewritten.network, cases, distance)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("form", ["self-guided", "self-guided-article", "attention-unet-3d-multi"], indirect=True)
def test_any_choice_is_the_same_function_and_the_order_of_the_names_does_not_matter(seed, answers, distance):
    network, cases = answers
    chance = random.Random(seed)
    names = chance.sample(ALL_BLOCKED, k=chance.randrange(3, 10))
    rewritten = rewrite_network(network, tuple(names))
    check_same(rewritten.network, cases[seed % 2 :][:1], distance)
    turned = rewrite_network(network, tuple(reversed(names)))
    assert [one.name for one in turned.plan] == [one.name for one in rewritten.plan]


def test_the_given_network_is_untouched(form, network):
    network.train()
    before = {path: type(module) for path, module in network.named_modules()}
    state = copy.deepcopy(network.state_dict())
    rewritten = rewrite_network(network, ALL_BLOCKED).network
    assert not any(module.training for module in rewritten.modules())
    with torch.no_grad():
        for tensor in (*rewritten.parameters(), *rewritten.buffers()):
            tensor.zero_()
    assert {path: type(module) for path, module in network.named_modules()} == before
    assert all(module.training for module in network.modules())
    after = network.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[key], value) for key, value in state.items())
    assert isinstance(rewritten, type(network))
    assert (rewritten.stride, rewritten.minimum, rewritten.attention_names) == (
        network.stride,
        network.minimum,
        network.attention_names,
    )


def test_a_second_time_there_is_nothing_to_do(form, network):
    for names in (None, ALL_BLOCKED):
        rewritten = rewrite_network(network, names).network
        assert rewrite_network(rewritten, names).plan == ()


@pytest.mark.parametrize("form", ["self-guided", "attention-unet-2d", "attention-unet-3d-multi"], indirect=True)
def test_the_plan_adds_up_to_what_the_network_lost(form, network):
    spec = form.spec(network)
    before = cost(network, spec)
    rewritten = rewrite_network(network, ALL_BLOCKED, spec)
    after = cost(rewritten.network, spec)
    assert before.gflop - sum(one.gflop_saved for one in rewritten.plan) == pytest.approx(after.gflop, rel=1e-12)
    assert before.mbytes - sum(one.mbytes_saved for one in rewritten.plan) == pytest.approx(after.mbytes, rel=1e-12)
    assert all(one.gflop_saved is None and one.mbytes_saved is None for one in rewrite_network(network).plan)


@ONLY_GUIDED
def test_what_a_rewrite_needs_comes_with_it_and_first(answers):
    network, _ = answers
    assert [one.name for one in rewrite_network(network, ("position-blocks",)).plan] == [
        "position-attention",
        "position-blocks",
    ]
    assert [one.name for one in rewrite_network(network, ("attention-inputs",)).plan] == [
        "batch-norm",
        "attention-inputs",
    ]


def test_every_rewrite_comes_after_what_it_names():
    order = list(rewrites())
    for name, rewrite in rewrites().items():
        for other in (*rewrite.needs, *rewrite.after):
            assert order.index(other) < order.index(name)


@ONLY_GUIDED
def test_an_unknown_name_is_refused_with_the_known_ones(answers):
    network, _ = answers
    with pytest.raises(UsageError, match="batch-nrom") as caught:
        rewrite_network(network, ("batch-nrom",))
    assert "batch-norm" in caught.value.expected


@ONLY_GUIDED
def test_two_that_exclude_each_other_are_refused(answers):
    network, _ = answers
    with pytest.raises(UsageError, match="exclude each other"):
        rewrite_network(network, ("position-sdpa", "position-blocks"))


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("self-guided", "training-parts"),
        ("self-guided", "transposed-convolution"),
        ("attention-unet-3d-multi", "supervision-heads"),
    ],
    indirect=["form"],
)
def test_a_network_that_lost_its_training_parts_refuses_to_be_trained(form, name, network, image):
    rewritten = rewrite_network(network, (name,)).network
    with pytest.raises(UsageError, match="cannot be trained"):
        rewritten.training_outputs(image(form, form.size, torch.float32))


@ONLY_GUIDED
def test_fusing_draws_no_random_numbers(answers):
    network, _ = answers
    state = torch.get_rng_state()
    rewrite_network(network, ALL_BLOCKED)
    assert torch.equal(torch.get_rng_state(), state)


@ONLY_GUIDED
def test_the_maps_at_their_own_resolution_stay(answers):
    network, cases = answers
    rewritten = rewrite_network(network, ALL_BLOCKED).network
    with torch.inference_mode():
        for found, wanted in zip(rewritten.attention(cases[0][0]), network.attention(cases[0][0]), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)
