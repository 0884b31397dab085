"""Opening a candidate: which files can be cut, and in which runtime their layers are run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medattn_edge.artifact import Artifact
from medattn_edge.backends.parts import BACKENDS
from medattn_edge.backends.runtimes import AS_WRITTEN, Runtime, choose
from medattn_edge.errors import InputError, UsageError, quoted
from medattn_edge.evaluation.bisect.ancestors import SUFFIXES, refusal
from medattn_edge.evaluation.bisect.chain import Cut
from medattn_edge.evaluation.bisect.layers import cut_layers
from medattn_edge.evaluation.bisect.onnx_cut import OnnxCut
from medattn_edge.evaluation.bisect.openvino_cut import OpenVinoCut
from medattn_edge.gates import LAYER
from medattn_edge.precision.onnx_graph import read


def openable(path: Path, reference: Path, beside: Mapping[str, str]) -> Artifact:
    """The artifact of a candidate.

    Args:
        path: of the file.
        reference: that it is held to.
        beside: SHA-256 -> what to type, of files that a refusal may name though they are not in its folder.

    Raises:
        UsageError: for a file without a graph; it names one of its lineage that has one.
        InputError, IntegrityError: as `Artifact.read` does.
    """
    if path.suffix.lower() not in SUFFIXES and path.is_file():
        raise refusal(path, reference, beside)
    return Artifact.read(path)


def cut_of(artifact: Artifact) -> Cut:
    """Its graph."""
    if artifact.path.suffix.lower() == ".onnx":
        return OnnxCut(read(artifact.path))
    from medattn_edge.backends.openvino.library import imported
    from medattn_edge.backends.openvino.model import read as read_ir

    ov = imported()
    return OpenVinoCut(ov, read_ir(ov, artifact.path, artifact.manifest))


def runtime_of(artifact: Artifact, name: str, device: str = "cpu") -> Runtime:
    """Where the layers of a candidate are run.

    Args:
        artifact: the candidate.
        name: of a runtime for an .onnx file; empty for ONNX Runtime, which runs FP16 as it is written: what it makes of
            that on a CPU is FP32.
        device: cpu or cuda:INDEX.

    Raises:
        UsageError, HostError: as `choose` does; UsageError for a name beside a file that has one runtime.
    """
    onnx, precision = artifact.path.suffix.lower() == ".onnx", artifact.manifest.precision
    if name and not onnx:
        raise UsageError(
            f"--runtime {name} for {artifact.path.name}",
            expected="an .onnx file: any other is run by what it was made for",
            hint="leave --runtime out",
        )
    usual = (AS_WRITTEN if precision == "fp16" else "onnxruntime") if onnx and device == "cpu" else ""
    wanted = name or usual
    runtime = choose(artifact.path, precision, [wanted] if wanted else [], device)[0][0]
    if runtime.backend not in BACKENDS:
        raise UsageError(
            f"{artifact.path.name} in {runtime.name}",
            expected=f"one of {', '.join(BACKENDS)}",
            hint="--runtime openvino",
        )
    return runtime


def check_matched(reference: OnnxCut, pairs: Mapping[str, str], names: tuple[str, str]) -> tuple[int, int]:
    """How many layers both graphs have, and how many the reference has.

    Args:
        reference: its graph.
        pairs: its tensors that the candidate has too.
        names: of both files, for the error.

    Raises:
        InputError: when there is too little to compare.
    """
    every = cut_layers(reference, set(reference.tensors))
    shared = sum(all(name in pairs for name in one.outputs) for one in every)
    if shared < LAYER.limits["min_matched"] * len(every) or reference.base(reference.result) not in pairs:
        raise InputError(
            f"{shared} of the {len(every)} layers of {names[0]} are found in {names[1]}",
            expected="a candidate that was made from the reference, with the names of its tensors or modules",
            hint=f"medattn-edge bisect {quoted(names[0])} NET.onnx SCAN, with the .onnx file that {names[1]} was "
            "made from, or with the checkpoint of that as the reference",
        )
    return shared, len(every)
