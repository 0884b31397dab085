"""Training files -> networks. Layouts are recognised by keys and shapes alone; no pickled code is ever run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medattn_edge.artifact import sha256, tool_versions
from medattn_edge.atomic import replacing
from medattn_edge.errors import CheckpointError, IntegrityError, UsageError, quoted
from medattn_edge.installation import upgrade_line
from medattn_edge.models import construct, network_record, networks
from medattn_edge.models.checkpoint_file import read_file
from medattn_edge.models.foreign_weights import checked_settings, outline, read_weights
from medattn_edge.models.nearest import Misfit, nearest_layout
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.models.weights import WeightSet, choose, find_weights, in_short
from medattn_edge.nearby import missing
from medattn_edge.spec import SPEC_OPTIONS, ModelSpec, assumed_values, nearest_patch

_SCHEMA = 1
_METADATA = "medattn_edge"
_OWN = "medattn_edge"


@dataclass(frozen=True)
class Checkpoint:
    """A network read from a file, in evaluation mode on the CPU.

    Attributes:
        network: with the file's weights.
        spec: what it expects and what its outputs mean.
        sha256: of the file.
        layout: the published layout it was in, or `medattn_edge` for our own.
        foreign: the file carried no spec, so that patch, intensity, spacing, axes and label names are the network's
            defaults, not facts.
        notes: what training wrote (command, split, Dice).
        remarks: what was done to get at the weights, to be printed: which of several sets was taken, what was left out.
        assumptions: settings that neither the file nor the caller told, with the values that were taken.
        expectation: what the owner's own logits proved, as `exporters.fit` says it; empty when nobody gave them.
        assumed: fields of the spec that nobody gave, so that they have the network's usual values.
        scan_expectation: what the owner's own result of a scan proved; empty when nobody gave one.
    """

    network: SegmentationNetwork
    spec: ModelSpec
    sha256: str
    layout: str
    foreign: bool
    notes: Mapping[str, Any]
    remarks: tuple[str, ...] = ()
    assumptions: Mapping[str, Any] = field(default_factory=dict)
    expectation: Mapping[str, Any] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    scan_expectation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reading(self) -> dict[str, Any]:
        """How the file was read, as plain JSON values for a manifest; empty for our own files."""
        if not self.foreign:
            return {}
        return {
            "assumptions": dict(self.assumptions),
            "spec_assumptions": assumed_values(self.spec, self.assumed),
            "remarks": list(self.remarks),
            "expectation": dict(self.expectation),
            "scan_expectation": dict(self.scan_expectation),
        }

    def with_spec(self, spec: ModelSpec, given: Iterable[str] = ()) -> Checkpoint:
        """The same weights under another spec (labels, patch, intensity...); settings that build may not change.

        Args:
            spec: the other spec.
            given: fields of it that somebody gave, so that they are assumed no more.
        """
        known = set(given)
        return replace(self, spec=spec, assumed=tuple(name for name in self.assumed if name not in known))

    def with_settings(self, config: Mapping[str, Any]) -> Checkpoint:
        """The same weights in a network of other settings, which are assumptions no more.

        Args:
            config: some of the network's open settings. A patch that it cannot take then becomes the nearest one.

        Raises:
            CheckpointError: the settings are not the network's, or its weights would have other shapes.
        """
        record = network_record(self.spec.network)
        settings = {**record.settings, **self.spec.config, **checked_settings(record, config)}
        with torch.device("meta"):
            network = construct(record, settings, self.spec.in_channels, self.spec.outputs).eval()
        own = self.network.state_dict()
        misfit = Misfit.between(own, network.state_dict())
        if misfit:
            raise CheckpointError(
                f"the settings {dict(config)} do not fit the weights: {misfit.describe()}",
                expected="settings that leave the shapes as they are",
                hint=f"one of {', '.join(record.open_settings(settings)) or 'none'}",
            )
        network.load_state_dict(own, assign=True)
        patch = nearest_patch(self.spec.patch, network.stride)
        spec = replace(self.spec, config=settings, stride=network.stride, patch=patch)
        told = set(record.open_settings({**record.settings, **self.spec.config})) - set(self.assumptions)
        opened = record.open_settings(settings) if self.foreign else {}
        assumptions = {key: settings[key] for key in opened if key not in told and key not in config}
        return replace(self, network=network, spec=spec, assumptions=assumptions)


def load(
    path: Path, *, network: str | None = None, config: Mapping[str, Any] | None = None, weights: str | None = None
) -> Checkpoint:
    """Read a checkpoint: ours, or any published layout, nested or prefixed, in safetensors or torch format.

    Args:
        path: The file.
        network: Insist on this network.
        config: Settings that a foreign file does not carry, such as align_corners; our own files carry theirs, which
            cannot be changed.
        weights: Which of several sets of weights in a foreign file, such as `state_dict_ema`; by default an average
            before what it averages.

    Raises:
        CheckpointError: The file is missing, truncated, pickled code, of an unknown layout or another network, or
            holds several sets of weights of which none is to be preferred.
        IntegrityError: Our own file, of a newer schema.
        UsageError: It has no such weights.
    """
    path = Path(path)
    if not path.is_file():
        if path.is_dir():
            raise CheckpointError(f"{path} is a directory", expected="a checkpoint", hint=f"ls {quoted(path)}")
        raise missing(path, "a checkpoint", CheckpointError)
    state, metadata = read_file(path)
    if _METADATA in metadata:
        if weights is not None:
            raise UsageError(
                f"the weights {weights!r} of {path.name}",
                expected="no choice: medattn-edge wrote it, with one set of weights",
                hint="load it without --weights",
            )
        checkpoint = _own(path, state, metadata[_METADATA], config or {})
    else:
        checkpoint = _foreign(path, state, config or {}, weights)
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
            hint=upgrade_line(),
        )
    spec = ModelSpec.from_json(written)
    network = outline(spec)
    record = network_record(spec.network)
    carried = {**record.settings, **spec.config}
    if {**carried, **checked_settings(record, config)} != carried:
        raise CheckpointError(
            f"{path.name} was trained with the settings {carried}",
            expected=f"not {dict(config)}",
            hint="load it without settings",
        )
    misfit = Misfit.between(state, network.state_dict())
    if misfit:
        raise CheckpointError(
            f"{path.name} does not fit the layout {_OWN}: {misfit.describe()}",
            expected="exactly its keys and shapes",
            hint="copy the file again, or train again",
        )
    _fill(path, network, state, {key: key for key in network.state_dict()})
    return Checkpoint(network, spec, sha256(path), _OWN, foreign=False, notes=notes)


def _foreign(path: Path, content: dict[str, Any], config: Mapping[str, Any], weights: str | None) -> Checkpoint:
    found = find_weights(content)
    if not found.largest:
        raise CheckpointError(
            f"{path.name} holds no tensors",
            expected="a state_dict",
            hint="torch.save(network.state_dict(), 'NAME.pth') with the code that trained it",
        )
    if not found.sets:
        raise CheckpointError(
            f"the layout of {path.name} is not known",
            expected=f"one of {', '.join(one.name for net in networks().values() for one in net.layouts)}",
            hint=nearest_layout({key: tuple(value.shape) for key, value in found.largest.items()}),
        )
    readings, problems = {}, {}
    for one in found.sets:
        try:
            readings[one.name] = read_weights(path, one, config)
        except CheckpointError as error:
            problems[one.name] = error
    fitting = [one for one in found.sets if one.name in readings]
    if weights in problems or not fitting:
        named = [one for one in found.sets if one.name == weights]
        raise problems[max(named or found.sets, key=lambda one: len(one.state)).name]
    taken, remarks = choose(path.name, fitting, weights)
    reading = readings[taken.name]
    remarks += [f"left out {name}: it does not fit the layout {_layout_of(found.sets, name)}" for name in problems]
    others = [*found.others, *reading.measures]
    if others:
        remarks.append(f"left out what is not the network's: {in_short(others)}")
    network, spec = reading.network, reading.spec
    _fill(path, network, taken.state, reading.names)
    opened = taken.record.open_settings(dict(spec.config))
    assumptions = {key: spec.config[key] for key in opened if key not in config}
    return Checkpoint(
        network,
        spec,
        sha256(path),
        taken.layout.name,
        foreign=True,
        notes={},
        remarks=tuple(remarks),
        assumptions=assumptions,
        assumed=tuple(SPEC_OPTIONS),
    )


def _layout_of(sets: tuple[WeightSet, ...], name: str) -> str:
    return next(one.layout.name for one in sets if one.name == name)


def _fill(path: Path, network: SegmentationNetwork, state: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
    """Fill the outline with numbers that are known to fit; `names` maps our keys to the file's."""
    own = network.state_dict()
    values = {
        key: _in_order(state[names[key]].as_subclass(Tensor).to(value.dtype))
        for key, value in own.items()
        if names[key] in state
    }
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


def _in_order(value: Tensor) -> Tensor:
    """The tensor with the usual order of memory: channels-last weights would make the reference round differently."""
    usual = torch.empty(value.shape, device="meta").stride()
    return value if value.stride() == usual else value.clone(memory_format=torch.contiguous_format)
