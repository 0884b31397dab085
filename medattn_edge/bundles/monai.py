"""A MONAI bundle: configs/metadata.json, configs/inference.json and models/model.pt -> checkpoint with its spec.

The format is MONAI's "bundle specification" (docs.monai.io, mb_specification).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medattn_edge.agreement import LogitsDistance
from medattn_edge.artifact import sha256
from medattn_edge.bundles.documents import entry, read_document
from medattn_edge.bundles.monai_config import Configuration
from medattn_edge.bundles.monai_transforms import POSTPROCESSING, PREPROCESSING, Pipeline, read_transforms
from medattn_edge.bundles.network import OwnersNetwork, check_answer, fill
from medattn_edge.errors import CheckpointError, InputError, MedattnError, MissingDependency, UsageError
from medattn_edge.gates import FP32
from medattn_edge.models import checkpoint as checkpoints
from medattn_edge.models.checkpoint import Checkpoint
from medattn_edge.spec import Intensity, ModelSpec
from medattn_edge.spec.postprocessing import Cleanup

METADATA = Path("configs/metadata.json")
_INFERENCE = Path("configs/inference.json")
_WEIGHTS = Path("models/model.pt")
_OVERLAP = 0.25  # MONAI's, when nothing is said


def read_bundle(folder: Path, orientation: str = "") -> tuple[Checkpoint, tuple[str, ...]]:
    """The network of a bundle with its spec, and what is assumed.

    Args:
        folder: of the bundle.
        orientation: of the arrays that the network was trained on, for a bundle that does not say it.

    Raises:
        InputError: for a bundle that lacks something, or whose transforms have no place in a spec.
        CheckpointError: for weights that do not fit.
        UsageError: for an orientation that contradicts the bundle, or is needed.
        MissingDependency: without monai.
    """
    metadata = read_document(folder / METADATA, "a MONAI bundle's metadata")
    configuration = Configuration(read_document(folder / _INFERENCE, "a bundle's inference"), folder / _INFERENCE)
    image = entry(metadata, folder / METADATA, "network_data_format", "inputs", "image")
    channels = entry(image, folder / METADATA, "num_channels")
    names = _names(entry(metadata, folder / METADATA, "network_data_format", "outputs", "pred", "channel_def"))
    pipeline = Pipeline(int(channels), names, _INFERENCE.name)
    read_transforms(
        configuration.section("preprocessing", "pre_transforms"), configuration, PREPROCESSING, pipeline, "image"
    )
    read_transforms(
        configuration.section("postprocessing", "post_transforms"), configuration, POSTPROCESSING, pipeline, "pred"
    )
    patch, overlap = _windows(configuration, pipeline)
    spec = replace(_spec(pipeline, patch, str(image.get("modality", "")), orientation, folder), overlap=overlap)
    module = fill(_module(configuration), folder / _WEIGHTS)
    check_answer(module, spec.in_channels, patch, spec.outputs, folder.name)
    checkpoint = _recognised(folder / _WEIGHTS, module, spec)
    if checkpoint is None:
        network = OwnersNetwork(module, patch).eval()
        notes = {"bundle": str(metadata.get("name", folder.name)), "version": str(metadata.get("version", ""))}
        checkpoint = Checkpoint(network, spec, sha256(folder / _WEIGHTS), "MONAI bundle", foreign=False, notes=notes)
    return checkpoint, tuple(pipeline.assumptions)


def _names(channel_def: Any) -> tuple[str, ...]:
    if not isinstance(channel_def, Mapping) or sorted(channel_def) != sorted(map(str, range(len(channel_def)))):
        raise InputError(
            f"the channel_def {channel_def!r:.120} of the bundle's output",
            expected='the meaning of each output, {"0": "background", "1": "spleen"}',
            hint=f"complete network_data_format.outputs.pred in {METADATA}",
        )
    return tuple(str(channel_def[str(index)]).strip().lower().replace(" ", "_") for index in range(len(channel_def)))


def _windows(configuration: Configuration, pipeline: Pipeline) -> tuple[tuple[int, ...], float]:
    """The patch in voxels, and how much of it neighbouring windows share."""
    inferer = configuration.component(configuration.section("inferer"))
    if inferer.name != "SlidingWindowInferer":
        raise InputError(
            f"the bundle's inferer is {inferer}",
            expected="a SlidingWindowInferer, with the size that its network sees",
            hint="a network that sees whole scans has no patch here: export its checkpoint alone, with --patch",
        )
    given = {key: configuration.follow(value) for key, value in inferer.arguments.items() if key in _WINDOWS}
    if unknown := sorted(set(inferer.arguments) - set(_WINDOWS) - set(_NO_MATTER)):
        raise InputError(
            f"the arguments {', '.join(unknown)} of {inferer}",
            expected=f"some of {', '.join((*_WINDOWS, *_NO_MATTER))}",
            hint="say the spec by options instead",
        )
    roi = configuration.resolve(given.get("roi_size"))
    if not isinstance(roi, list | tuple) or len(roi) != 3 or not all(isinstance(s, int) and s > 0 for s in roi):
        raise InputError(
            f"the roi_size {roi!r} of the bundle's inferer",
            expected="three sizes in voxels",
            hint="a 2-D bundle says nothing of the plane that it sees: export its checkpoint alone",
        )
    overlap = _overlap(configuration.resolve(given.get("overlap", _OVERLAP)))
    said = "as in the bundle" if "overlap" in given else "as MONAI's where a bundle says nothing"
    mode = str(given.get("mode", "constant")).lower()
    how = "" if mode == "gaussian" else f"; the bundle's weights are {mode}"
    pipeline.assumptions.append(
        f"windows overlap by {overlap:g}, {said}, or a little more where MONAI would push the last ones "
        f"back, with Gaussian weights, of which MONAI lets none fall below 0.001{how}"
    )
    pipeline.assumptions.append("a scan smaller than the patch is surrounded by its minimum; by MONAI with 0")
    return tuple(roi), overlap


def _overlap(given: Any) -> float:
    """One fraction; MONAI also takes one for each axis."""
    each = given if isinstance(given, list | tuple) and given else [given]
    if any(isinstance(one, bool) or not isinstance(one, int | float) or not 0 <= one < 1 for one in each) or (
        len(set(each)) > 1
    ):
        raise InputError(
            f"the overlap {given!r} of the bundle's inferer",
            expected="one fraction of the patch for every axis, from 0 to below 1",
            hint='"overlap": 0.25 is what MONAI takes when nothing is said',
        )
    return float(each[0])


_WINDOWS = ("roi_size", "overlap", "mode")
_NO_MATTER = ("sw_batch_size", "sw_device", "device", "progress", "cache_roi_weight_map", "cpu_thresh")


def _spec(pipeline: Pipeline, patch: tuple[int, ...], modality: str, orientation: str, folder: Path) -> ModelSpec:
    code = pipeline.orientation
    if orientation and code and orientation.upper() != code:
        raise UsageError(
            f"the orientation {orientation} for a bundle that says {code}", expected=code, hint="leave it out"
        )
    if not (code or orientation):
        raise UsageError(
            f"{folder.name} brings scans to no orientation: its network sees them as their files store them",
            expected="to be told how the scans that it was trained on are stored",
            hint="--orientation RAS (medattn-edge inspect SCAN shows a scan's)",
        )
    if not code:
        pipeline.assumptions.append(f"every scan is seen in {orientation.upper()}, as --orientation says")
    if pipeline.activation == "sigmoid" and pipeline.discrete == "argmax":
        raise InputError(
            "the bundle takes the argmax of sigmoids",
            expected="softmax and argmax, or sigmoid and a threshold",
            hint="say the spec by options instead",
        )
    activation = pipeline.activation or {"argmax": "softmax", "threshold": ""}.get(pipeline.discrete, "")
    if not activation or (activation == "softmax" and pipeline.discrete == "threshold"):
        raise InputError(
            f"the bundle makes labels by {pipeline.activation or 'no activation'} and {pipeline.discrete or 'nothing'}",
            expected="Activationsd and AsDiscreted: softmax and argmax, or sigmoid and a threshold of 0.5",
            hint="complete its postprocessing",
        )
    names = pipeline.names
    if activation == "softmax" and names[0] not in ("background", "bg"):
        raise InputError(
            f"the first output of the bundle is {names[0]!r}, and its labels exclude each other",
            expected="the background first",
            hint=f"say what channel 0 means in {METADATA}",
        )
    if pipeline.spacing is None:
        pipeline.assumptions.append("scans are seen in the spacing that they have, as in the bundle")
    return ModelSpec(
        network="monai-bundle",
        in_channels=pipeline.channels,
        labels=names,
        patch=patch,
        stride=patch,
        spacing=None if pipeline.spacing is None else pipeline.spacing[::-1],
        intensity=Intensity.parse(pipeline.intensity),
        axes="WHD",
        orientation=code or orientation.upper(),
        activation=activation,
        cleanup=tuple(map(Cleanup.parse, pipeline.cleanup)),
        modality={"ct": "CT", "mr": "MR", "mri": "MR"}.get(modality.lower(), ""),
    )


def _module(configuration: Configuration) -> nn.Module:
    """The network as MONAI builds it from the bundle's own settings."""
    name = "network_def" if configuration.has("network_def") else "network"
    component = configuration.component(configuration.section(name))
    try:
        from monai.networks import nets
    except ImportError as error:
        raise MissingDependency.of_extra("monai", "monai") from error
    kind = getattr(nets, component.name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise InputError(
            f"the network {component.target} is none of monai.networks.nets",
            expected="a network of MONAI",
            hint="--network package.module:build with models/model.pt, for a network of your own code",
        )
    arguments = {key: configuration.resolve(value) for key, value in component.arguments.items()}
    try:
        module: nn.Module = kind(**arguments)
    except Exception as error:
        raise InputError(
            f"MONAI cannot build {component.name}: {error}",
            expected="settings that it takes",
            hint="install the monai that the bundle's metadata names",
        ) from error
    return module.eval()


def _recognised(path: Path, module: nn.Module, spec: ModelSpec) -> Checkpoint | None:
    """The same weights in our own form of the network, with maps and rewrites, where that gives the same logits."""
    try:
        ours = checkpoints.load(path)
        ours.network.check_shape(spec.patch)
    except MedattnError:
        return None
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((1, spec.in_channels, *spec.patch), np.float32))
    distance = LogitsDistance()
    with torch.inference_mode():
        try:
            distance.add(module(noise).numpy(), ours.network(noise).numpy())
        except (RuntimeError, CheckpointError, InputError):
            return None
    if distance.sqnr_db < FP32.limits["min_sqnr_db"]:
        return None
    stride = ours.spec.stride
    return replace(
        ours, spec=replace(spec, network=ours.spec.network, config=ours.spec.config, stride=stride), foreign=False
    )
