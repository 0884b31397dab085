"""Export: write, check against eager, and only then let the files appear."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from torch import nn

from medattn_edge import gates
from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import Artifact, Manifest, sha256, tool_versions, writing
from medattn_edge.backends.check import check
from medattn_edge.backends.session import Options, Patches, Session
from medattn_edge.backends.torch.eager import EagerSession
from medattn_edge.errors import MissingDependency, UsageError, quoted
from medattn_edge.models.checkpoint import Checkpoint
from medattn_edge.models.flops import gflop
from medattn_edge.models.network import SegmentationNetwork, WithAttention, parameter_count
from medattn_edge.registry import records
from medattn_edge.rewrites import Rewritten
from medattn_edge.spec import ModelSpec

FP32_GATE = gates.FP32.thresholds


@dataclass(frozen=True)
class ExportSettings:
    """How a network is written.

    Attributes:
        batch: the fixed N of the input, or None for any.
        opset: of ONNX.
        attention: add the `attention` output.

    Raises:
        UsageError: for a batch below 1.
    """

    batch: int | None = 1
    opset: int = 18
    attention: bool = False

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"a batch of {self.batch}", expected="at least 1, or dynamic", hint="--batch dynamic")


@dataclass(frozen=True)
class Written:
    """What an exporter says of the file it wrote.

    Attributes:
        operators: type -> count.
    """

    operators: Mapping[str, int]


@dataclass(frozen=True)
class Exporter:
    """The record of an exporter file.

    Attributes:
        name: of the exporter; `rewrites.defaults` has the rewrites of its files.
        suffixes: of the files that it writes.
        extra: of this package, which installs what it needs.
        packages: what it needs.
        write: module, spec, settings, path -> Written; the module takes one image and returns logits, or
            (logits, maps).
        session: opens what it wrote, for the check.
        default: whether it stands for its suffixes when nobody names an exporter.
    """

    name: str
    suffixes: tuple[str, ...]
    extra: str
    packages: tuple[str, ...]
    write: Callable[[nn.Module, ModelSpec, ExportSettings, Path], Written]
    session: Callable[[Artifact, Options], Session]
    default: bool = field(default=True)


def exporters() -> dict[str, Exporter]:
    """Every exporter by name."""
    return {record.name: record for record in records("medattn_edge.exporters", "EXPORTER")}


def exporter_of(path: Path) -> Exporter:
    """The exporter of a file's suffix; raises UsageError for none, MissingDependency when it is not installed."""
    defaults = [one for one in exporters().values() if Path(path).suffix.lower() in one.suffixes and one.default]
    if not defaults:
        suffixes = ", ".join(suffix for one in exporters().values() for suffix in one.suffixes)
        raise UsageError(
            f"no exporter writes {Path(path).name}",
            expected=f"a name that ends in {suffixes}",
            hint=f"-o {quoted(Path(path).stem + '.onnx')}",
        )
    for package in defaults[0].packages:
        if find_spec(package) is None:
            raise MissingDependency.of_extra(package, defaults[0].extra)
    return defaults[0]


def export_fp32(
    rewritten: Rewritten,
    path: Path,
    samples: Mapping[str, Patches],
    *,
    settings: ExportSettings | None = None,
    gate: Thresholds = FP32_GATE,
) -> Artifact:
    """Write a rewritten network and check it against its checkpoint's own before artifact and manifest appear.

    Args:
        rewritten: what `rewrite` returned.
        path: its suffix chooses the exporter.
        samples: name -> float32 (n, C, *patch), what the check runs on; give real input as well as random.
        settings: how it is written.
        gate: what every sample must reach.

    Returns:
        The artifact, in FP32.

    Raises:
        AgreementError: when a sample does not reach the gate; nothing is written.
        UsageError: for a suffix or a setting that does not fit.
        ShapeError: for a patch that the network cannot take.
        MissingDependency: when the exporter is not installed.
        OutputError: when the files cannot be written.
    """
    settings, path = settings or ExportSettings(), Path(path)
    checkpoint = rewritten.checkpoint
    exporter, spec = exporter_of(path), checkpoint.spec
    network = copy.deepcopy(rewritten.network).eval()
    network.check_shape(spec.patch)
    if settings.attention and not network.attention_names:
        raise UsageError(
            f"this {spec.network} has no attention maps",
            expected="a network with gates",
            hint="export without --attention",
        )
    with writing(path) as (model, sidecar):
        module = WithAttention(network).eval() if settings.attention else network
        written = exporter.write(module, spec, settings, model)
        manifest = manifest_of(checkpoint, network, exporter.name, settings)
        steps = tuple(rewritten.rewrites)
        manifest = replace(manifest, operators=dict(written.operators), sha256=sha256(model), rewrites=steps)
        with exporter.session(Artifact(model, manifest), Options()) as candidate:
            cases = check(EagerSession(checkpoint.network, spec), candidate, samples, gate)
        manifest = replace(manifest, agreement=tuple(cases))
        manifest.write(sidecar)
    return Artifact(path, manifest)


def manifest_of(
    checkpoint: Checkpoint, network: SegmentationNetwork, written_by: str, settings: ExportSettings
) -> Manifest:
    """The manifest of a file that is yet to be written: without its hash and its operators.

    Args:
        checkpoint: what the file comes from.
        network: what is written, the checkpoint's own or a rewritten one.
        written_by: the name of the record that writes the file.
        settings: how it is written.
    """
    spec, free = checkpoint.spec, settings.batch or -1
    names = network.attention_names if settings.attention else ()
    outputs = {"logits": [free, spec.outputs, *spec.patch]}
    if names:
        outputs["attention"] = [free, len(names), *spec.patch]
    return Manifest(
        spec=spec,
        precision="fp32",
        sha256="",
        parent_sha256=checkpoint.sha256,
        exporter=written_by,
        batch=settings.batch,
        inputs={"image": [free, spec.in_channels, *spec.patch]},
        outputs=outputs,
        operators={},
        parameters=parameter_count(network),
        gflop=gflop(network, spec),
        attention_maps=names,
        tools=tool_versions(),
        reading=checkpoint.reading,
    )


def random_patches(spec: ModelSpec, count: int, seed: int = 0) -> Patches:
    """Noise in [0, 1), float32 (count, C, *patch): a smoke test beside real input, not instead of it."""
    rng = np.random.default_rng(seed)
    return rng.random((count, spec.in_channels, *spec.patch), dtype=np.float32)
