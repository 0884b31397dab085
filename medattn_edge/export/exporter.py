"""Export: write, check against eager, and only then let the files appear."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import Artifact, Manifest, sha256, tool_versions, writing
from medattn_edge.backends.check import check
from medattn_edge.backends.session import Options, Patches, Session
from medattn_edge.backends.torch.eager import EagerSession
from medattn_edge.errors import MissingDependency, UsageError
from medattn_edge.models.checkpoint import Checkpoint
from medattn_edge.models.flops import gflop
from medattn_edge.models.network import SegmentationNetwork, WithAttention
from medattn_edge.registry import records
from medattn_edge.spec import ModelSpec

# FP32 against FP32: other kernels sum in another order, and that is all. Eager itself is 105 to 145 dB from FP64,
# depending on how well the network is conditioned.
FP32_GATE = Thresholds(min_sqnr_db=90.0, min_label_match=0.9999)


@dataclass(frozen=True)
class ExportSettings:
    """batch: the fixed N of the input, or None for any. opset: of ONNX. attention: add the `attention` output."""

    batch: int | None = 1
    opset: int = 18
    attention: bool = False

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"a batch of {self.batch}", expected="at least 1, or dynamic", hint="--batch dynamic")


@dataclass(frozen=True)
class Written:
    """What an exporter says of the file it wrote: operators, type -> count."""

    operators: Mapping[str, int]


@dataclass(frozen=True)
class Exporter:
    """The record of an exporter file.

    write: module, spec, settings, path -> Written; the module takes one image and returns logits, or (logits, maps).
    session: opens what it wrote, for the check.
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
    return {record.name: record for record in records("medattn_edge.export", "EXPORTER")}


def exporter_of(path: Path) -> Exporter:
    """The exporter of a file's suffix; raises UsageError for none, MissingDependency when it is not installed."""
    found = [one for one in exporters().values() if Path(path).suffix.lower() in one.suffixes and one.default]
    if not found:
        suffixes = ", ".join(suffix for one in exporters().values() for suffix in one.suffixes)
        raise UsageError(
            f"no exporter writes {Path(path).name}",
            expected=f"a name that ends in {suffixes}",
            hint=f"-o {Path(path).stem}.onnx",
        )
    for package in found[0].packages:
        if find_spec(package) is None:
            raise MissingDependency.of_extra(package, found[0].extra)
    return found[0]


def export_network(
    checkpoint: Checkpoint,
    path: Path,
    samples: Mapping[str, Patches],
    *,
    deployed: SegmentationNetwork | None = None,
    settings: ExportSettings | None = None,
    gate: Thresholds = FP32_GATE,
    rewrites: Sequence[Mapping[str, Any]] = (),
) -> Artifact:
    """Export a checkpoint's network and check it against eager before the artifact and its manifest appear.

    samples: name -> float32 (n, C, *patch), what the check runs on; give real input as well as random.
    deployed: a cheaper form of the same function to export instead, such as `fuse` makes; the reference stays the
    checkpoint's own network. rewrites: what made it, for the manifest: the `rewrites` of what `fuse` returned.
    Raises AgreementError, and writes nothing, when a sample does not reach the gate; UsageError, MissingDependency,
    OutputError.
    """
    settings = settings or ExportSettings()
    exporter, spec = exporter_of(path), checkpoint.spec
    network = copy.deepcopy(deployed if deployed is not None else checkpoint.network).eval()
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
        manifest = replace(manifest, operators=dict(written.operators), sha256=sha256(model), rewrites=tuple(rewrites))
        with exporter.session(Artifact(model, manifest), Options()) as candidate:
            cases = check(EagerSession(checkpoint.network, spec), candidate, samples, gate)
        manifest = replace(manifest, agreement=tuple(cases))
        sidecar.write_text(json.dumps(manifest.to_json(), indent=2) + "\n", encoding="utf-8")
    return Artifact(Path(path), manifest)


def manifest_of(
    checkpoint: Checkpoint, network: SegmentationNetwork, made_by: str, settings: ExportSettings
) -> Manifest:
    """The manifest of a file that is yet to be made from a checkpoint: without its hash and its operators.

    network: what is deployed, the checkpoint's own or a cheaper form of it. made_by: the record that makes the file.
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
        exporter=made_by,
        batch=settings.batch,
        inputs={"image": [free, spec.in_channels, *spec.patch]},
        outputs=outputs,
        operators={},
        parameters=sum(value.numel() for value in network.parameters()),
        gflop=gflop(network, spec),
        attention_maps=names,
        tools=tool_versions(),
    )


def random_patches(spec: ModelSpec, count: int, seed: int = 0) -> Patches:
    """Noise in [0, 1), float32 (count, C, *patch): a smoke test beside real input, not instead of it."""
    rng = np.random.default_rng(seed)
    return rng.random((count, spec.in_channels, *spec.patch), dtype=np.float32)
