"""Folding BatchNorm away keeps the function and the network that it was given."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from medattn_edge.backends.torch.deprecations import torchscript_is_deprecated
from medattn_edge.models.blocks import InstanceNorm
from medattn_edge.rewrites.norms_and_activations import fold_batch_norms

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def image(form, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    return torch.randn((2, form.channels, *form.other), generator=generator, dtype=dtype)


def count(network, kinds):
    return sum(isinstance(module, kinds) for module in network.modules())


@torch.inference_mode()
def test_the_folded_network_is_the_same_function(form, network):
    network.double()
    wanted, wanted_maps = network.forward_attention(image(form))
    found, found_maps = fold_batch_norms(network).forward_attention(image(form))
    assert (found - wanted).abs().max() <= 1e-10 * wanted.abs().max()
    torch.testing.assert_close(found_maps, wanted_maps, rtol=1e-8, atol=1e-10)


def test_no_batch_norm_is_left_and_every_instance_norm_stays(form, network):
    folded = fold_batch_norms(network)
    assert count(network, NORMS) > 0
    assert count(folded, NORMS) == 0
    assert count(folded, InstanceNorm) == count(network, InstanceNorm)
    assert (count(folded, InstanceNorm) > 0) == (form.name == "attention-unet-monai")
    assert not [key for key in folded.state_dict() if "running_" in key]
    assert folded.attention_names == network.attention_names


def test_the_given_network_is_untouched(form, network):
    before = copy.deepcopy(network.state_dict())
    folded = fold_batch_norms(network)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_a_network_in_training_mode_stays_there_and_its_folded_copy_is_in_evaluation_mode(form, network):
    network.train()
    folded = fold_batch_norms(network)
    assert not folded.training
    assert network.training
    assert all(module.training for module in network.modules())


@torch.inference_mode()
def test_a_folded_network_scripts(form, network):
    wanted = network(image(form, torch.float32))
    with torchscript_is_deprecated():
        program = torch.jit.script(fold_batch_norms(network))
    for _ in range(3):
        found = program(image(form, torch.float32))
    assert (found - wanted).abs().max() <= 1e-4 * wanted.std()


@torch.inference_mode()
def test_a_module_called_from_several_places_is_folded_once():
    torch.manual_seed(2)
    shared = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()).double()
    shared[1].running_mean.uniform_(-1, 1)
    shared[1].running_var.uniform_(0.5, 2)
    network = nn.ModuleDict({"first": shared, "second": shared}).eval()
    folded = fold_batch_norms(network)
    assert folded["first"] is folded["second"]
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(folded["second"](folded["first"](x)), shared(shared(x)), rtol=1e-12, atol=1e-12)


@torch.inference_mode()
def test_the_shared_autoencoder_of_a_step_stays_one_module(form, network):
    if form.name != "self-guided" or form.settings.get("autoencoder") == "per_scale":
        pytest.skip("has no shared autoencoder")
    folded = fold_batch_norms(network)
    assert len(folded.step1.autoencoders.members) == 1
    assert sum(1 for _ in folded.step1.autoencoders.members[0].modules()) == sum(
        1 for _ in network.step1.autoencoders.members[0].modules()
    )


@pytest.mark.parametrize("dims", [2, 3])
@torch.inference_mode()
def test_a_transposed_convolution_is_folded_along_its_output_channels(dims):
    torch.manual_seed(4)
    conv = (nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 2](5, 3, 3, stride=2, padding=1, output_padding=1)
    pair = nn.Sequential(conv, (nn.BatchNorm2d, nn.BatchNorm3d)[dims - 2](3)).double().eval()
    pair[1].weight.uniform_(0.5, 2)
    pair[1].running_mean.uniform_(-1, 1)
    x = torch.randn(1, 5, *(4,) * dims, dtype=torch.float64)
    torch.testing.assert_close(fold_batch_norms(pair)(x), pair(x), rtol=1e-12, atol=1e-12)
