"""Compilation: an artifact (or a checkpoint) -> a faster artifact for one runtime, which answers as its parent does.

Precision is a property of the graph: a compiler is given an FP32, FP16 or INT8 file and leaves it one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from medattn_edge import hardware
from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import Artifact, Manifest, manifest_path, sha256, writing
from medattn_edge.atomic import replacing
from medattn_edge.backends import open_session
from medattn_edge.backends.check import check
from medattn_edge.backends.compiler import Compiler, CompileSettings, Progress, Source, compiler_of
from medattn_edge.backends.isolated import IsolatedSession
from medattn_edge.backends.session import Options, Patches, Session
from medattn_edge.errors import AgreementError, BackendError, EnvironmentProblem, MissingDependency, UsageError
from medattn_edge.precision.qdq_rules import Finding
from medattn_edge.precision.qdq_rules import check as check_graph

# Two FP32 runtimes on one CPU are 120 to 135 dB apart, because they sum in another order; a GPU sums in yet another.
# BF16 and TF32 under the name of FP32 are 75 dB at most.
FP32_ON_CPU = Thresholds(min_sqnr_db=110.0, min_label_match=0.9999)
FP32_ON_GPU = Thresholds(min_sqnr_db=90.0, min_label_match=0.9999)
# Reduced precision: what the FP16 and INT8 graphs themselves are judged by. On noise, numbers that are finite are all
# that can be asked of it.
REDUCED = Thresholds(min_sqnr_db=30.0, min_dice=0.999)
_NOISE = "random"
_OPTIONS = {"compute_capabilities": "--compute-capability", "workspace_mib": "--workspace"}


@dataclass(frozen=True)
class Plan:
    """What would be compiled, when nothing stands against it. lint: the warnings about the graph."""

    source: Source
    output: Path
    compiler: Compiler
    settings: CompileSettings
    lint: tuple[Finding, ...] = ()


def compile_artifact(
    source: Path,
    output: Path,
    target: str | None,
    settings: CompileSettings,
    samples: Mapping[str, Patches],
    progress: Progress | None = None,
) -> Artifact:
    """Compile a file, check it against the file it was made from, and only then let it appear.

    target: the name of a compiler, None for the one that the suffix of `output` stands for. samples: name -> real input
    float32 (n, C, *patch); noise is added to it. The rest is said at `plan` and `build`.
    """
    return build(plan(source, output, target, settings), samples, progress)


def plan(source: Path, output: Path, target: str | None, settings: CompileSettings) -> Plan:
    """Choose the compiler, and hold the source and the settings to what it takes; nothing is compiled or written.

    Raises UsageError for a target, a suffix or a setting that does not fit, MissingDependency, what `Artifact.read`
    raises, and InputError for a graph that breaks the rules of the target.
    """
    compiler = compiler_of(output, target)
    _check_settings(compiler, settings)
    if Path(source).suffix.lower() not in compiler.sources:
        raise UsageError(
            f"{compiler.name} does not compile {Path(source).name}",
            expected=f"a file that ends in {', '.join(compiler.sources)}",
            hint=f"medattn-edge export CHECKPOINT -o {Path(output).stem}.onnx"
            if ".onnx" in compiler.sources
            else f"medattn-edge compile CHECKPOINT -o {Path(output).name}",
        )
    if Path(source).resolve() == Path(output).resolve():
        raise UsageError(f"{output} is the source itself", expected="another file to write to", hint="-o OTHER_NAME")
    parent = source_of(Path(source), compiler)
    is_graph = parent.path.suffix.lower() == ".onnx"
    lint = check_graph(_graph(parent.path), compiler.profile, hardware.isa(hardware.cpu())) if is_graph else ()
    return Plan(parent, Path(output), compiler, settings, lint)


def source_of(path: Path, compiler: Compiler) -> Source:
    """An artifact with its manifest, or a checkpoint with the one that its export would have: batch 1, without maps.

    Raises what `Artifact.read` and `models.checkpoint.load` raise.
    """
    if ".onnx" in compiler.sources:
        artifact = Artifact.read(path)
        return Source(artifact.path, artifact.manifest)
    from medattn_edge.export import ExportSettings, manifest_of
    from medattn_edge.models import checkpoint

    loaded = checkpoint.load(path)
    return Source(path, manifest_of(loaded, loaded.network, compiler.name, ExportSettings()))


def build(plan: Plan, samples: Mapping[str, Patches], progress: Progress | None = None) -> Artifact:
    """Compile as planned; samples: name -> real input float32 (n, C, *patch), to which noise is added.

    Where the result runs on this host, it is opened in a process of its own and compared with its parent; where not,
    its `target` says under `verified` that it was not run, and why.
    Raises AgreementError, and writes nothing, when it crashes or does not agree; BackendError when it cannot be
    compiled; EnvironmentProblem, OutputError.
    """
    compiler, output = plan.compiler, plan.output
    if not samples:
        raise UsageError("no real input to check with", expected="at least one patch", hint="--scan SCAN")
    with (
        writing(output) as (model, sidecar),
        # Under their own names, so that they are opened for the check as they will be for a scan.
        TemporaryDirectory(prefix=".", suffix=f".tmp.{output.name}", dir=output.parent) as folder,
        ExitStack() as stack,
    ):
        staged = Path(folder) / output.name
        others = {suffix: staged.with_suffix(suffix) for suffix in compiler.companions}
        paths = {output.suffix.lower(): staged, **others}
        target = compiler.compile(plan.source, paths, plan.settings, progress)
        written = {suffix: path for suffix, path in others.items() if path.is_file()}
        manifest = _manifest(plan, target, staged, written)
        manifest_path(staged).write_text(json.dumps(manifest.to_json()), encoding="utf-8")
        cases, verified = _verified(plan, manifest, staged, samples)
        manifest = replace(manifest, agreement=cases, target={**manifest.target, "verified": verified})
        for suffix, path in written.items():
            path.replace(stack.enter_context(replacing(output.with_suffix(suffix))))
        staged.replace(model)
        sidecar.write_text(json.dumps(manifest.to_json(), indent=2) + "\n", encoding="utf-8")
    # They appeared in the order companions, model, manifest: a crash between them leaves hashes that do not fit.
    return Artifact(output, manifest)


def _check_settings(compiler: Compiler, settings: CompileSettings) -> None:
    plain = CompileSettings()
    for name in (item.name for item in fields(settings)):
        if name not in compiler.settings and getattr(settings, name) != getattr(plain, name):
            option = _OPTIONS.get(name, "--" + name.replace("_", "-"))
            follows = [_OPTIONS.get(one, "--" + one.replace("_", "-")) for one in compiler.settings]
            raise UsageError(
                f"{option} for the target {compiler.name}, which does not follow it",
                expected=f"of these options, only {', '.join(follows)}",
                hint=f"leave {option} out",
            )


def _graph(path: Path) -> Any:
    if find_spec("onnx") is None:  # without it nobody could say whether the runtime computes the graph as written
        raise MissingDependency.of_extra("onnx", "compile")
    import onnx

    return onnx.load(str(path))


def _manifest(plan: Plan, target: Mapping[str, Any], staged: Path, companions: Mapping[str, Path]) -> Manifest:
    parent = plan.source.manifest
    # `sha256` is empty for a checkpoint, whose child this file is: it was never exported.
    made = parent.child() if parent.sha256 else parent
    rest = {key: value for key, value in target.items() if key != "precision"}
    return replace(
        made,
        precision=target.get("precision", parent.precision),
        exporter=plan.compiler.name,
        sha256=sha256(staged),
        companions={suffix: sha256(path) for suffix, path in companions.items()},
        target={**rest, "lint": [asdict(finding) for finding in plan.lint]},
    )


def _verified(
    plan: Plan, manifest: Manifest, staged: Path, samples: Mapping[str, Patches]
) -> tuple[tuple[Mapping[str, Any], ...], str]:
    """The figures of the check, or none, and a sentence that says on what they were measured, or why not."""
    on_gpu = "compute_capabilities" in manifest.target.get("runs_on", {})
    threads = plan.settings.threads
    try:
        candidate = IsolatedSession(staged, options=Options("cuda:0" if on_gpu else "cpu", threads))
    except EnvironmentProblem as error:
        if not on_gpu:  # it was compiled for this very CPU
            raise
        return (), f"not run on this host: {error.found}"
    except BackendError as error:
        raise _unusable(plan, error) from error
    with candidate, _reference(plan.source, threads) as reference:
        noise = np.random.default_rng(0).random((2, *_shape(manifest)), dtype=np.float32)
        gates = _gates({plan.source.manifest.precision, manifest.precision} == {"fp32"}, on_gpu, samples)
        try:
            cases = check(reference, candidate, {**samples, _NOISE: noise}, gates)
        except BackendError as error:
            raise _unusable(plan, error) from error
    gpu = candidate.facts.get("gpu")
    return tuple(cases), f"on this host{f' ({gpu})' if gpu else ''}, against {plan.source.path.name}"


def _reference(source: Source, threads: int) -> Session:
    is_checkpoint = not source.manifest.sha256
    return open_session(source.path, threads=threads, spec=source.manifest.spec if is_checkpoint else None)


def _shape(manifest: Manifest) -> tuple[int, ...]:
    return (manifest.spec.in_channels, *manifest.spec.patch)


def _gates(fp32: bool, on_gpu: bool, samples: Mapping[str, Patches]) -> dict[str, Thresholds]:
    if fp32:
        return dict.fromkeys([*samples, _NOISE], FP32_ON_GPU if on_gpu else FP32_ON_CPU)
    return {**dict.fromkeys(samples, REDUCED), _NOISE: Thresholds()}


def _unusable(plan: Plan, error: BackendError) -> AgreementError:
    """A runtime that crashes on its own file has given its verdict of it."""
    return AgreementError(
        f"what {plan.compiler.name} made of {plan.source.path.name} did not come through its check: {error.found}",
        expected="a file that runs",
        hint="nothing was written; run the file it was made from, or try another target",
    )
