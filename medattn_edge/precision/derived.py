"""An ONNX artifact becomes another in fewer bits: written, checked against its parent, and only then there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import Artifact, sha256, writing
from medattn_edge.backends.check import check
from medattn_edge.backends.onnxruntime import OnnxRuntimeSession
from medattn_edge.backends.session import Options, Patches
from medattn_edge.errors import UsageError
from medattn_edge.file_gate import FileGate
from medattn_edge.precision.onnx_graph import operators


def fp32_graph(artifact: Artifact, precision: str) -> None:
    """Raise UsageError unless an artifact is an FP32 ONNX graph, from which every other precision can be made."""
    if artifact.path.suffix.lower() != ".onnx" or artifact.manifest.precision != "fp32":
        raise UsageError(
            f"{artifact.path.name} is an artifact in {artifact.manifest.precision}",
            expected=f"an FP32 ONNX artifact to make {precision} from",
            hint="medattn-edge export CHECKPOINT -o NAME.onnx",
        )
    if only := [str(one["name"]) for one in artifact.manifest.rewrites if one.get("fp32_only")]:
        raise UsageError(
            f"the graph has {', '.join(only)}, where large numbers cancel: in {precision} that loses the answer",
            expected="a graph without it",
            hint=f"medattn-edge export CHECKPOINT -o NAME.onnx --rewrite -{only[0]}",
        )


def against_parent(
    parent: Artifact,
    derived: Artifact,
    name: str,
    samples: Mapping[str, Patches],
    gates: Thresholds | Mapping[str, Thresholds],
    options: Options | None = None,
) -> list[dict[str, Any]]:
    """The cases of an artifact against the one it was made from, both in ONNX Runtime; see `check`.

    Args:
        parent: that it was made from.
        derived: the artifact.
        name: what an error calls it.
        samples: name -> patches.
        gates: for all samples, or by name.
        options: how to open it.
    """
    with (
        OnnxRuntimeSession(parent, Options()) as reference,
        OnnxRuntimeSession(derived, options or Options()) as candidate,
    ):
        reference.facts["backend"], candidate.facts["backend"] = parent.manifest.precision, name
        return check(reference, candidate, samples, gates)


def write_derived(  # noqa: PLR0913 - each is one thing that the file gets
    parent: Artifact,
    path: Path,
    model: Any,
    *,
    precision: str,
    recipe: Mapping[str, Any],
    samples: Mapping[str, Patches],
    gates: Mapping[str, Thresholds],
    carried: FileGate | None = None,
) -> Artifact:
    """Write a ModelProto made from `parent`, if it agrees with it.

    Args:
        parent: the FP32 artifact.
        path: to write.
        model: the ModelProto.
        precision: of the manifest.
        recipe: of the manifest.
        samples: name -> patches that it must agree on.
        gates: name -> what it must reach on them.
        carried: the gate that its manifest keeps, for whoever judges it later.

    Raises:
        AgreementError: a sample does not reach its gate; nothing was written.
    """
    import onnx

    with writing(path) as (file, sidecar):
        onnx.save(model, str(file))
        manifest = parent.manifest.child(
            precision=precision,
            sha256=sha256(file),
            operators=operators(model),
            recipe=dict(recipe),
            gate=carried,
        )
        cases = against_parent(parent, Artifact(file, manifest), precision, samples, gates)
        manifest = replace(manifest, agreement=tuple(cases))
        manifest.write(sidecar)
    return Artifact(Path(path), manifest)
