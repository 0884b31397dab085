"""The networks of the cases, and the patches that they are calibrated and judged on."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trained
from cases import Case

from medattn_edge.models import build, checkpoint, construct, network_record
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.spec import ModelSpec

_WEIGHTS = Path(__file__).parent.parent / "tests" / "models" / "vectors" / "weights.py"


def weights() -> Any:
    """The module that makes weights from the names of keys, and smooth random images from a shape."""
    location = importlib.util.spec_from_file_location("published_weights", _WEIGHTS)
    assert location is not None
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


def write(case: Case, path: Path) -> None:
    """Write the case's checkpoint in our own form, with the spec of the case."""
    if case.trained:
        loaded = checkpoint.load(trained.source_of(case.source).path)
        checkpoint.save(path, loaded.network, replace(loaded.spec, patch=case.patch), loaded.notes)
    else:
        spec = spec_of(case)
        network = initial_of(spec) if case.initial else network_of(case, spec)
        kind = "initial" if case.initial else "deterministic"
        checkpoint.save(path, network, spec, {"source": case.source, "weights": kind})


def spec_of(case: Case) -> ModelSpec:
    """What a network with deterministic weights expects: an image in [0, 1] as it is."""
    record = network_record(case.network)
    settings = {**record.settings, **case.settings}
    with torch.device("meta"):
        stride = construct(record, settings, case.channels, case.classes).stride
    return ModelSpec(
        network=case.network,
        in_channels=case.channels,
        labels=("background", *(f"class_{index}" for index in range(1, max(2, case.classes)))),
        patch=case.patch,
        stride=stride,
        outputs=case.classes,
        config=settings,
    )


def network_of(case: Case, spec: ModelSpec) -> SegmentationNetwork:
    """The network with deterministic weights, each made from its published name."""
    network, record, made = build(spec), network_record(spec.network), weights()
    layout = next((one for one in record.layouts if case.source.startswith(one.name)), record.layouts[0])
    state = network.state_dict()
    names = layout.published(state, dict(spec.config))
    kinds = {names[key]: (tuple(value.shape), str(value.numpy().dtype)) for key, value in state.items()}
    filled = made.filled(kinds)
    network.load_state_dict({key: torch.from_numpy(np.array(filled[names[key]])) for key in state})
    return network.eval()


def initial_of(spec: ModelSpec) -> SegmentationNetwork:
    """The network as a training starts with it, but for the attentions' gains, which would start at 0: switched off."""
    torch.manual_seed(0)
    network = build(spec)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.5)
    return network.eval()


def patches(case: Case) -> trained.Patches:
    """Patches to calibrate on, and others to judge on; only of a trained network there is a truth about them.

    Of a network that has learnt nothing they are smooth noise; the number of images is part of its seed, so that no
    image is in both.
    """
    if case.trained:
        return trained.patches(trained.source_of(case.source), case.calibration, case.held_out, case.patch)
    make = weights().image
    assert case.calibration != case.held_out
    return trained.Patches(*(make((count, case.channels, *case.patch)) for count in (case.calibration, case.held_out)))
