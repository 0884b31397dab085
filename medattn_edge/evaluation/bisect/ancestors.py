"""Ancestors: what can be bisected instead of a file that cannot, and the command to type for it.

A frozen TorchScript file has no modules any more, and what ONNX Runtime, OpenVINO or TensorRT write for one kind of
machine has no layers that could be run by themselves; the graph that it was compiled from has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from medattn_edge.artifact import Artifact, Manifest, is_artifact, manifest_path, sha256
from medattn_edge.errors import IntegrityError, UsageError, quoted

SUFFIXES: Final = (".onnx", ".xml")  # of files with a graph that can be cut
_EXPECTED: Final = "an .onnx artifact, or OpenVINO's .xml"


def refusal(path: Path, reference: Path, beside: Mapping[str, str]) -> UsageError:
    """Why a file is no candidate, which file of its lineage is one, and what to type.

    Args:
        path: of the file.
        reference: that it was to be held to.
        beside: SHA-256 -> what to type, of files that are not in its folder, such as those of its release.

    Raises:
        InputError, IntegrityError: as `Artifact.read` does.
    """
    found = f"{path.name} as the candidate: it has no graph that can be cut into layers"
    held_to = quoted(_typed(reference, beside))
    if not manifest_path(path).is_file():
        return UsageError(found, expected=_EXPECTED, hint=_exported(path, held_to))
    manifest = Artifact.read(path).manifest
    if known := graph_of(path, manifest, beside):
        graph = quoted(known)
        return UsageError(
            found,
            expected=f"{Path(known).name}, which it was compiled from",
            hint=f"medattn-edge bisect {held_to} {graph} SCAN; whether compiling it changed anything says "
            f"medattn-edge compare {graph} {quoted(_typed(path, beside))} SCAN",
        )
    if len(manifest.lineage) == 1:
        return UsageError(found, expected=_EXPECTED, hint=_exported(reference, held_to, manifest))
    return UsageError(
        found,
        expected=f"the graph that it was compiled from, with the SHA-256 {manifest.lineage[-1][:16]}...",
        hint=f"medattn-edge bisect {held_to} NET.onnx SCAN with that file; without it "
        f"{_exported(Path('CHECKPOINT'), held_to, manifest)}",
    )


def graph_of(path: Path, manifest: Manifest, beside: Mapping[str, str], suffixes: tuple[str, ...] = SUFFIXES) -> str:
    """What to type for the graph that a file was compiled from; empty where it is not known.

    Not an older file of the lineage: that has another precision, and does not leave its reference where this one does.

    Args:
        path: of the file: what lies in its folder is looked at.
        manifest: its own.
        beside: SHA-256 -> what to type, of files elsewhere.
        suffixes: of files that will do.
    """
    parent = manifest.lineage[-1]
    if Path(beside.get(parent, "")).suffix.lower() in suffixes:
        return beside[parent]
    for one in sorted(path.parent.iterdir()):
        if one.suffix.lower() in suffixes and is_artifact(one):
            try:
                if Artifact.read(one).manifest.sha256 == parent:
                    return str(one)
            except IntegrityError:
                continue  # a damaged file is nobody's parent, and no matter here
    return ""


def _typed(path: Path, beside: Mapping[str, str]) -> str:
    """What was typed for a file: of a release there is only a private copy, which nobody finds again."""
    return beside.get(sha256(path), str(path)) if path.is_file() else str(path)


def _exported(source: Path, held_to: str, manifest: Manifest | None = None) -> str:
    """The two commands that make a graph of what a file was made from, and bisect it."""
    sizes = "" if manifest is None else f" --patch {'x'.join(map(str, manifest.spec.patch))}"
    return f"medattn-edge export {quoted(source)} -o NET.onnx{sizes}, then medattn-edge bisect {held_to} NET.onnx SCAN"
