"""Training files -> networks. Layouts are recognised by keys and shapes alone; no pickled code is ever run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medattn_edge.artifact import sha256, tool_versions
from medattn_edge.atomic import replacing
from medattn_edge.errors import CheckpointError, IntegrityError, quoted
from medattn_edge.models import build, construct, network_record, networks
from medattn_edge.models.checkpoint_file import read_file
from medattn_edge.models.nearest import describe_difference, nearest_layout
from medattn_edge.models.network import Config, Layout, Network, SegmentationNetwork
from medattn_edge.spec import ModelSpec

_SCHEMA = 1
_METADATA = "medattn_edge"
_NESTS = ("state_dict", "model_state_dict", "network_weights", "model", "net", "network", "weights", "params")
_PREFIXES = ("module", "model", "net", "network", "_orig_mod")
_OWN = "medattn_edge"
_DEPTH = 8


@dataclass(frozen=True)
class Checkpoint:
    """A network read from a file, in evaluation mode on the CPU.

    Attributes:
        network: With the file's weights.
        spec: What it expects.
        sha256: Of the file.
        layout: The published layout it was in, or `medattn_edge` for our own.
        foreign: The file carried no spec, so that patch, intensity, spacing, axes and label names are the network's
            defaults, not facts.
        notes: What training wrote (command, split, Dice).
    """

    network: SegmentationNetwork
    spec: ModelSpec
    sha256: str
    layout: str
    foreign: bool
    notes: Mapping[str, Any]

    def with_spec(self, spec: ModelSpec) -> Checkpoint:
        """The same weights under another spec (labels, patch, intensity...); settings that build may not change."""
        return replace(self, spec=spec)


def load(path: Path, *, network: str | None = None, config: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read a checkpoint: ours, or any published layout, nested or prefixed, in safetensors or torch format.

    Args:
        path: The file.
        network: Insist on this network.
        config: Settings that a foreign file does not carry, such as align_corners; our own files carry theirs, which
            cannot be changed.

    Raises:
        CheckpointError: The file is missing, truncated, pickled code, of an unknown layout or another network.
        IntegrityError: Our own file, of a newer schema.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {what}", expected="a checkpoint", hint=f"ls {quoted(path.parent)}")
    state, metadata = read_file(path)
    if _METADATA in metadata:
        checkpoint = _own(path, state, metadata[_METADATA], config or {})
    else:
        checkpoint = _foreign(path, state, config or {})
    if network is not None and checkpoint.spec.network != network:
        raise CheckpointError(
            f"{path.name} is a checkpoint of {checkpoint.spec.network}",
            expected=network,
            hint=f"--network {checkpoint.spec.network}",
        )
    return checkpoint


def save(path: Path, network: SegmentationNetwork, spec: ModelSpec, notes: Mapping[str, Any] | None = None) -> None:
    """Write our own form: safetensors with the spec and the notes as JSON metadata. The file appears whole or not.

    Args:
        path: NAME.safetensors.
        network: Its state_dict is written.
        spec: What it expects.
        notes: What training says of itself; JSON values.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    facts = {"schema": _SCHEMA, "spec": spec.to_json(), "notes": dict(notes or {}), "tools": tool_versions()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={_METADATA: json.dumps(facts, sort_keys=True)})
        except SafetensorError as error:  # a full disk, in its own words
            raise OSError(str(error)) from error


def _own(path: Path, state: dict[str, Tensor], metadata: str, config: Mapping[str, Any]) -> Checkpoint:
    try:
        facts = json.loads(metadata)
        newer, written, notes = facts["schema"] > _SCHEMA, facts["spec"], dict(facts.get("notes", {}))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the facts that {path.name} carries cannot be read: {error}",
            expected="the schema, the spec and the notes that medattn-edge writes",
            hint="copy the file again, or train again",
        ) from error
    if newer:
        raise IntegrityError(
            f"{path.name} is a checkpoint of schema {facts['schema']}",
            expected=f"schema {_SCHEMA} or older",
            hint="pip install --upgrade medattn-edge",
        )
    spec = ModelSpec.from_json(written)
    network = _outline(spec)
    record = network_record(spec.network)
    carried = {**record.settings, **spec.config}
    if {**carried, **_checked(record, config)} != carried:
        raise CheckpointError(
            f"{path.name} was trained with the settings {carried}",
            expected=f"not {dict(config)}",
            hint="load it without settings",
        )
    _fill(path, network, state, {key: key for key in network.state_dict()})
    return Checkpoint(network, spec, sha256(path), _OWN, foreign=False, notes=notes)


def _foreign(path: Path, content: dict[str, Any], config: Mapping[str, Any]) -> Checkpoint:
    state = _unwrap(content)
    if not state:
        raise CheckpointError(
            f"{path.name} holds no tensors", expected="a state_dict", hint="save network.state_dict()"
        )
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    record, layout = recognise(shapes) or (None, None)
    if record is None or layout is None:
        raise CheckpointError(
            f"the layout of {path.name} is not known",
            expected=f"one of {', '.join(one.name for net in networks().values() for one in net.layouts)}",
            hint=nearest_layout(shapes),
        )
    try:
        settings = {**record.settings, **layout.config(shapes)}
    except (LookupError, ValueError, ArithmeticError) as error:
        raise CheckpointError(
            f"{path.name} lacks {error} of the layout {layout.name}",
            expected="every key of it",
            hint=nearest_layout(shapes),
        ) from error
    channels = _channels(shapes, layout, settings)
    settings |= _checked(record, config)
    spec = _default_spec(record, settings, *channels)
    network = _outline(spec)
    published = layout.published(network.state_dict(), settings)
    surplus = [key for key in state if key not in layout.to_ours([key], settings) and not layout.is_dead(key)]
    _fill(path, network, state, published, layout, surplus)
    return Checkpoint(network, spec, sha256(path), layout.name, foreign=True, notes={})


def _outline(spec: ModelSpec) -> SegmentationNetwork:
    """The network of a spec without numbers: a file that claims a huge network must not make us allocate one."""
    with torch.device("meta"):
        return build(spec)


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Network, Layout] | None:
    """The one layout whose signature the keys and shapes have, or None."""
    hits = [(net, layout) for net in networks().values() for layout in net.layouts if layout.signature(shapes)]
    return hits[0] if len(hits) == 1 else None


def _unwrap(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The innermost state_dict, without the prefixes that wrappers put before its keys."""
    for _ in range(_DEPTH):  # a dictionary can hold itself
        nests = [key for key in _NESTS if isinstance(content.get(key), Mapping)]
        if not nests:
            break
        content = content[nests[0]]
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    while state and recognise({key: tuple(value.shape) for key, value in state.items()}) is None:
        first = {key.split(".", 1)[0] for key in state}
        if len(first) != 1 or not first <= set(_PREFIXES) or any("." not in key for key in state):
            break
        state = {key.split(".", 1)[1]: value for key, value in state.items()}
    return state


def _checked(record: Network, config: Mapping[str, Any]) -> Config:
    unknown = sorted(set(config) - set(record.settings))
    if unknown:
        raise CheckpointError(
            f"the settings {unknown} of {record.name}",
            expected=f"some of {sorted(record.settings)}",
            hint=f"--set {next(iter(record.settings))}=...",
        )
    return dict(config)


def _channels(shapes: Mapping[str, tuple[int, ...]], layout: Layout, settings: Config) -> tuple[int, int]:
    """C of the first convolution and K of the output's, by their place in our network."""
    ours = {mine: shapes[theirs] for theirs, mine in layout.to_ours(shapes, settings).items()}
    try:
        first = next(ours[key] for key in layout.first if key in ours)
        last = next(ours[key] for key in layout.last if key in ours)
    except StopIteration:
        raise CheckpointError(
            f"no input or output convolution in the layout {layout.name}",
            expected="every key of it",
            hint=nearest_layout(shapes),
        ) from None
    if len(first) < 2 or len(last) < 1:
        raise CheckpointError(
            f"an input convolution of shape {first} and an output convolution of shape {last}",
            expected="(channels, C, ...) and (K, channels, ...)",
            hint=nearest_layout(shapes),
        )
    return first[1], last[0]


def _default_spec(record: Network, settings: Config, in_channels: int, outputs: int) -> ModelSpec:
    patch = record.patch_for(settings)
    with torch.device("meta"):
        stride = construct(record, settings, in_channels, outputs).stride
    names = ("background", *(f"class_{index}" for index in range(1, max(outputs, 2))))
    return ModelSpec(
        network=record.name,
        in_channels=in_channels,
        labels=names,
        patch=patch,
        stride=stride,
        intensity=record.intensity,
        axes=record.axes,
        outputs=outputs,
        config=settings,
    )


def _fill(
    path: Path,
    network: SegmentationNetwork,
    state: Mapping[str, Tensor],
    names: Mapping[str, str],
    layout: Layout | None = None,
    surplus: list[str] | None = None,
) -> None:
    """Load strictly; `names` maps our keys to the file's. Old files without num_batches_tracked are complete too."""
    own = network.state_dict()
    missing = [names[key] for key in own if names[key] not in state and not key.endswith("num_batches_tracked")]
    known = set(names.values())
    extra = surplus if surplus is not None else [key for key in state if key not in known]
    wrong = [
        f"{names[key]} is {tuple(state[names[key]].shape)}, not {tuple(value.shape)}"
        for key, value in own.items()
        if names[key] in state and state[names[key]].shape != value.shape
    ]
    wrong += [f"{key} is no plain array of numbers" for key in sorted(known & set(state)) if not _is_plain(state[key])]
    if missing or extra or wrong:
        raise CheckpointError(
            f"{path.name} does not fit the layout {layout.name if layout else _OWN}: "
            + describe_difference(missing, extra, wrong),
            expected="exactly its keys and shapes",
            hint="load it with the code that trained it and save its state_dict again",
        )
    values = {key: state[names[key]].to(value.dtype) for key, value in own.items() if names[key] in state}
    infinite = [names[key] for key, value in values.items() if not torch.isfinite(value).all()]
    if infinite:
        raise CheckpointError(
            f"{path.name} has values that are not finite in {infinite[0]}",
            expected="finite weights",
            hint="take a checkpoint from before the training diverged",
        )
    # What old files lack counts batches, and starts at 0.
    lacking = {key: torch.zeros_like(value, device="cpu") for key, value in own.items() if key not in values}
    network.load_state_dict({**lacking, **values}, assign=True)


def _is_plain(value: Tensor) -> bool:
    stored = value.device.type == "cpu" and value.layout == torch.strided
    return stored and not (value.is_complex() or value.is_quantized)
