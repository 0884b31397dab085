"""The reference as a graph: an ONNX artifact as it is, and whatever export takes exported as the candidate was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medattn_edge.artifact import Artifact, manifest_path
from medattn_edge.backends.session import Patches
from medattn_edge.errors import MissingDependency, UsageError, quoted
from medattn_edge.evaluation.bisect.ancestors import graph_of
from medattn_edge.precision.onnx_graph import read

if TYPE_CHECKING:
    from medattn_edge.foreign import SourceOptions

_OPSET = 18  # of our exports, where the candidate does not say another


@dataclass(frozen=True)
class ReferenceGraph:
    """What counts as right.

    Attributes:
        artifact: an ONNX file and its manifest.
        notes: what a reader of the figures should know.
        exported: whether the file was made for this run.
    """

    artifact: Artifact
    notes: tuple[str, ...]
    exported: bool


def reference_graph(
    path: Path, candidate: Artifact, options: SourceOptions | None, samples: Mapping[str, Patches], folder: Path
) -> ReferenceGraph:
    """The graph of a reference.

    Args:
        path: an .onnx artifact, or what `export` takes.
        candidate: which was made from it.
        options: how to read a source, as it was said to `export`.
        samples: name -> patches that an export is checked on.
        folder: for that export.

    Raises:
        UsageError: an artifact without an ONNX graph, or options for an artifact.
        AgreementError: the exported graph is not what the source computes.
        MissingDependency: a source without what export needs.
        InputError, CheckpointError: as `export` does for such a source.
    """
    if not manifest_path(path).is_file():
        return _exported(path, candidate, options, samples, folder)
    if path.suffix.lower() != ".onnx":
        raise UsageError(
            f"{path.name} as the reference: its layers have no names",
            expected="an .onnx artifact, or what export takes",
            hint=_hint(path, candidate),
        )
    if options is not None and options.given:
        raise UsageError(
            f"options for reading {path.name}, which is an artifact",
            expected="them for a source: a checkpoint, a network from elsewhere, or a folder",
            hint="leave them out: its manifest says everything",
        )
    artifact = Artifact.read(path)
    _check_same_network(artifact, candidate)
    return ReferenceGraph(artifact, tuple(_notes(artifact, candidate)), exported=False)


def _hint(path: Path, candidate: Artifact) -> str:
    """The reference that can be named: the graph that a compiled file was made from, where it lies beside it."""
    known = graph_of(path, Artifact.read(path).manifest, {}, (".onnx",))
    command = f"medattn-edge bisect {quoted(known or 'NET.onnx')} {quoted(candidate.path)} SCAN, with the file that "
    return command + (f"{path.name} was compiled from" if known else "it was made from")


def _check_same_network(reference: Artifact, candidate: Artifact) -> None:
    own, other = reference.spec, candidate.spec
    for name, what in (("in_channels", "channels"), ("outputs", "outputs"), ("patch", "patch")):
        if getattr(own, name) != getattr(other, name):
            raise UsageError(
                f"{reference.path.name} has {what} {getattr(own, name)}, and {candidate.path.name} "
                f"{getattr(other, name)}",
                expected="two files of one network",
                hint=f"medattn-edge inspect {quoted(reference.path)}",
            )
    if reference.manifest.batch != candidate.manifest.batch:
        raise UsageError(
            f"{reference.path.name} runs {reference.manifest.batch or 'any number of'} patches at once, and "
            f"{candidate.path.name} {candidate.manifest.batch or 'any number of'}",
            expected="two files of one batch",
            hint="medattn-edge export CHECKPOINT -o NET.onnx --batch dynamic, and the candidate from that",
        )


def _notes(reference: Artifact, candidate: Artifact) -> list[str]:
    notes = []
    own, other = reference.manifest, candidate.manifest
    made_from = own.sha256 == other.sha256 or own.sha256 in other.lineage
    if not made_from:
        notes.append(f"{candidate.path.name} was not made from {reference.path.name}")
    mine, theirs = ([str(one.get("name")) for one in manifest.rewrites] for manifest in (own, other))
    if mine != theirs:
        apart = ", ".join(sorted({*mine} ^ {*theirs}))
        notes.append(f"only one of the two has the rewrites {apart}: its layers there are others by intent")
    return notes


def _exported(
    path: Path, candidate: Artifact, options: SourceOptions | None, samples: Mapping[str, Patches], folder: Path
) -> ReferenceGraph:
    try:
        from medattn_edge.exporters import ExportSettings
        from medattn_edge.foreign import ForeignNetwork, SourceReference
        from medattn_edge.foreign import SourceOptions as Said
        from medattn_edge.precision.export import export
        from medattn_edge.rewrites import rewrite
    except ImportError as error:
        raise MissingDependency.of_extra(str(error.name), "export") from error
    manifest = candidate.manifest
    lineage = (*manifest.lineage, manifest.sha256)
    source = SourceReference.read(path, options or Said(), candidate.spec, lineage, manifest.batch or 1)
    settings = ExportSettings(manifest.batch, _opset(candidate), bool(manifest.attention_maps))
    loaded: Any = source.loaded
    names = tuple(str(one["name"]) for one in manifest.rewrites)
    network = loaded if isinstance(loaded, ForeignNetwork) else rewrite(loaded, names)
    artifact = export(network, folder / f"{path.stem or 'reference'}.onnx", samples=samples, settings=settings)
    note = f"{path.name} was exported for this run, with the rewrites of {candidate.path.name}"
    spec = replace(candidate.spec, network=artifact.spec.network, config=artifact.spec.config)
    _check_same_network(Artifact(artifact.path, replace(artifact.manifest, spec=spec)), candidate)
    return ReferenceGraph(artifact, (*source.notes, note), exported=True)


def _opset(candidate: Artifact) -> int:
    if candidate.path.suffix.lower() != ".onnx":
        return _OPSET
    entries = read(candidate.path).opset_import
    return next((int(entry.version) for entry in entries if entry.domain in ("", "ai.onnx")), _OPSET)
