"""Candidates: the files that a target can be given, how each is made, and why others are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

from medattn_edge.backends.compiler import compilers
from medattn_edge.deploy.recipe import CPU, DeployRecipe
from medattn_edge.errors import UsageError
from medattn_edge.host import hardware
from medattn_edge.installation import install_line
from medattn_edge.precision.quantizers.quantizer import Quantizer, quantizers

FP32: Final = "fp32.onnx"
FP16: Final = "fp16.onnx"
AS_WRITTEN: Final = "onnxruntime-unoptimised"
_OPENVINO: Final = "openvino"
_ENGINES: Final = {"tensorrt": ("tensorrt", ".engine"), "tensorrt-rtx": ("tensorrt-rtx", ".rtx")}
_ON_THE_BOX: Final = "built on the box that runs it: medattn-edge compile {} -o {} there"


@dataclass(frozen=True)
class CandidatePlan:
    """One file that may be made.

    Attributes:
        name: of the file, without a folder.
        precision: that it is stored in.
        tool: that makes it: the exporter, quantizer or compiler.
        parent: the candidate that it is made from; empty for what comes from the checkpoint.
        quantizer: of an INT8 graph.
        compiler: of a compiled file.
        inference_precision: in which the compiler's runtime computes what the graph has in FP32, as
            `CompileSettings` has it.
        runtimes: that decide about it, as `compare` names them; all that it names have to hold.
        left_out: why it is not made; empty when it is.
        eligible: whether it may be chosen; a file that others are made from is made all the same.
    """

    name: str
    precision: str
    tool: str
    parent: str = ""
    quantizer: str = ""
    compiler: str = ""
    inference_precision: str = "f32"
    runtimes: tuple[str, ...] = ()
    left_out: str = ""
    eligible: bool = True

    @property
    def is_engine(self) -> bool:
        """Whether it runs on a GPU only."""
        return self.compiler in _ENGINES

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "candidate": self.name,
            "precision": self.precision,
            "tool": self.tool,
            "parent": self.parent or "checkpoint",
            "eligible": self.eligible,
            "left_out": self.left_out or None,
        }


def planned_candidates(recipe: DeployRecipe) -> tuple[CandidatePlan, ...]:
    """Every file of a target, in the order in which they are made; those that are not made say why.

    Raises:
        UsageError: the recipe names a candidate that the target does not have, or only ones that are not made here.
    """
    every = _on_cpu() if recipe.target == CPU else _on_gpu(recipe)
    wanted = recipe.candidates
    unknown = [name for name in wanted if name not in {one.name for one in every}]
    if unknown:
        raise UsageError(
            f"the target {recipe.target} has no candidate {unknown[0]!r}",
            expected=f"some of {', '.join(one.name for one in every)}",
            hint=f"--candidate {every[0].name}",
        )
    for name in wanted:
        one = next(one for one in every if one.name == name)
        if one.left_out:
            raise UsageError(
                f"the candidate {name}: {one.left_out}",
                expected=f"some of {', '.join(each.name for each in every if not each.left_out)}",
                hint="leave --candidate out to choose from them",
            )
    needed = _with_parents(every, wanted) if wanted else {one.name for one in every}
    return tuple(_limited(one, needed, wanted) for one in every)


def _with_parents(every: Sequence[CandidatePlan], wanted: Sequence[str]) -> set[str]:
    """The names, those of what they are made from, and the FP32 graph, which all are gated after."""
    parents = {one.name: one.parent for one in every}
    needed = {FP32}
    for name in wanted:
        while name:
            needed.add(name)
            name = parents[name]
    return needed


def _limited(one: CandidatePlan, needed: set[str], wanted: Sequence[str]) -> CandidatePlan:
    from dataclasses import replace

    if one.name not in needed:
        return replace(one, left_out=one.left_out or "not asked for")
    return replace(one, eligible=not wanted or one.name in wanted)


def _missing(packages: Sequence[str], extra: str) -> str:
    absent = [package for package in packages if find_spec(package) is None]
    return f"{absent[0]} is not installed: {install_line(extra)}" if absent else ""


def _on_cpu() -> tuple[CandidatePlan, ...]:
    openvino = compilers()[_OPENVINO]
    without = _missing(openvino.packages, openvino.extra)
    own = (_OPENVINO, "openvino-without-amx")
    found = [
        CandidatePlan(FP32, "fp32", "export", runtimes=("onnxruntime",)),
        CandidatePlan("fp32.xml", "fp32", _OPENVINO, compiler=_OPENVINO, runtimes=own, left_out=without),
        CandidatePlan(FP16, "fp16", "export", FP32, left_out="CPUs compute an FP16 graph in FP32 between casts"),
    ]
    for one in sorted(quantizers().values(), key=lambda quantizer: quantizer.name):
        if CPU not in one.profiles:
            continue
        lacks = _missing(one.packages, one.extra)
        suffix = ".onnx" if ".onnx" in one.suffixes else ".xml"
        runtimes = ("onnxruntime",) if suffix == ".onnx" else own
        graph = _quantised(one, suffix, runtimes, lacks)
        found.append(graph)
        if suffix == ".onnx":
            name = graph.name.removesuffix(suffix) + ".xml"
            compiled = CandidatePlan(
                name, "int8", _OPENVINO, graph.name, one.name, _OPENVINO, runtimes=own, left_out=lacks or without
            )
            found.append(compiled)
        else:
            found.append(_in_bf16(graph, own, lacks or without))
    return tuple(found)


def _in_bf16(graph: CandidatePlan, runtimes: tuple[str, ...], lacks: str) -> CandidatePlan:
    """The same INT8 with BF16 around it, which its gate may bear, and only some CPUs compute faster."""
    name = f"{graph.name.removesuffix('.xml')}-bf16.xml"
    has_it = {"avx512_bf16", "amx_bf16"} & set(hardware.cpu().instruction_sets)
    lacks = lacks or ("" if has_it else "this CPU does not compute BF16")
    return CandidatePlan(
        name, "int8", _OPENVINO, graph.name, graph.quantizer, _OPENVINO, "bf16", runtimes=runtimes, left_out=lacks
    )


def _quantised(quantizer: Quantizer, suffix: str, runtimes: tuple[str, ...], lacks: str) -> CandidatePlan:
    name = f"int8-{quantizer.name}{suffix}"
    return CandidatePlan(name, "int8", quantizer.name, FP32, quantizer.name, runtimes=runtimes, left_out=lacks)


def _on_gpu(recipe: DeployRecipe) -> tuple[CandidatePlan, ...]:
    written = (AS_WRITTEN,)
    found = [
        CandidatePlan(FP32, "fp32", "export", runtimes=("onnxruntime",)),
        CandidatePlan(FP16, "fp16", "export", FP32, runtimes=written),
    ]
    for one in sorted(quantizers().values(), key=lambda quantizer: quantizer.name):
        if "tensorrt" in one.profiles:
            found.append(_quantised(one, ".onnx", written, _missing(one.packages, one.extra)))
    if recipe.target not in _ENGINES:
        box = _ON_THE_BOX.format("RELEASE/GRAPH.onnx", "GRAPH.engine")
        names = [one.name.removesuffix(".onnx") + ".engine" for one in found]
        made = [(name, graph) for name, graph in zip(names, found, strict=True)]
        return (*found, *(_engine(name, graph, "tensorrt", box) for name, graph in made))
    compiler, suffix = _ENGINES[recipe.target]
    engines = []
    for graph in found:
        name = graph.name.removesuffix(".onnx") + suffix
        engines.append(_engine(name, graph, compiler, graph.left_out or _not_here(compiler, recipe, graph.name, name)))
    return (*found, *engines)


def _engine(name: str, graph: CandidatePlan, compiler: str, left_out: str) -> CandidatePlan:
    return CandidatePlan(
        name,
        graph.precision,
        compiler,
        graph.name,
        graph.quantizer,
        compiler,
        runtimes=(compiler,),
        left_out=left_out,
    )


def _not_here(compiler: str, recipe: DeployRecipe, graph: str, name: str) -> str:
    """Why this host does not build an engine; empty when it does."""
    record = compilers()[compiler]
    if lacks := _missing(record.packages, record.extra):
        return f"{lacks}; {_ON_THE_BOX.format(f'RELEASE/{graph}', name)}"
    if hardware.gpus():
        return ""
    if compiler == "tensorrt":
        return f"no NVIDIA GPU here, and TensorRT builds for its own; {_ON_THE_BOX.format(f'RELEASE/{graph}', name)}"
    if not recipe.compute_capabilities:
        raise UsageError(
            "the target tensorrt-rtx on a host without an NVIDIA GPU",
            expected="the compute capabilities to build for",
            hint="--compute-capability sm86,sm89",
        )
    return ""
