"""Compilation: an artifact (or a checkpoint) -> a faster artifact for one runtime, which answers as its parent does.

Precision is a property of the graph: a compiler is given an FP32, FP16 or INT8 file and leaves it one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from medattn_edge.agreement import Thresholds
from medattn_edge.artifact import Artifact, Manifest, manifest_path, move_into, sha256, writing
from medattn_edge.atomic import naming_full_disk
from medattn_edge.backends import open_session
from medattn_edge.backends.check import check
from medattn_edge.backends.compiler import Compiler, CompileSettings, Progress, Source, compiler_of
from medattn_edge.backends.isolated import IsolatedSession
from medattn_edge.backends.session import Options, Patches, Session
from medattn_edge.errors import AgreementError, BackendError, HostError, MissingDependency, UsageError, quoted
from medattn_edge.gates import FP32, REDUCED, REDUCED_NOISE
from medattn_edge.host import hardware
from medattn_edge.host.cores import usable_cores
from medattn_edge.nearby import missing
from medattn_edge.precision.lint.rules import Finding
from medattn_edge.precision.lint.rules import check as check_graph
from medattn_edge.spec import ModelSpec

FP32_ON_CPU = FP32_ON_GPU = FP32.thresholds
_NOISE = "random"
_OPTIONS = {"compute_capabilities": "--compute-capability", "workspace_mib": "--workspace"}


@dataclass(frozen=True)
class Plan:
    """What would be compiled, when nothing stands against it.

    Attributes:
        source: the file to compile, with its manifest.
        output: the file to write.
        compiler: the target.
        settings: of the compiler.
        lint: the warnings about the graph.
        record: more for the manifest's `target`, such as how it was tuned.
    """

    source: Source
    output: Path
    compiler: Compiler
    settings: CompileSettings
    lint: tuple[Finding, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)


def compile_artifact(
    source: Path,
    output: Path,
    target: str | None,
    settings: CompileSettings,
    samples: Mapping[str, Patches],
    progress: Progress | None = None,
) -> Artifact:
    """Compile a file, check it against the file it was made from, and only then let it appear.

    Args:
        source: a graph, or a checkpoint for a compiler that takes those.
        output: the file to write.
        target: the name of a compiler, None for the one that the suffix of `output` stands for.
        settings: of the compiler.
        samples: name -> real input float32 (n, C, *patch); noise is added to it.
        progress: is called while it compiles.

    Raises:
        MedattnError: what `plan` and `build` raise.
    """
    return build(plan(source, output, target, settings), samples, progress)


def plan(source: Path, output: Path, target: str | None, settings: CompileSettings) -> Plan:
    """Choose the compiler, and hold the source and the settings to what it takes; nothing is compiled or written.

    Raises:
        UsageError: for a target, a suffix or a setting that does not fit.
        MissingDependency: for what is not installed.
        InputError: for a graph that breaks the rules of the target, and as `Artifact.read` does.
        IntegrityError: as `Artifact.read` does.
    """
    compiler = compiler_for(output, target, settings)
    if not Path(source).exists():
        raise missing(Path(source), f"a file that ends in {', '.join(compiler.sources)}")
    if Path(source).suffix.lower() not in compiler.sources:
        raise UsageError(
            f"{compiler.name} does not compile {Path(source).name}",
            expected=f"a file that ends in {', '.join(compiler.sources)}",
            hint=f"medattn-edge export CHECKPOINT -o {quoted(Path(output).stem + '.onnx')}"
            if ".onnx" in compiler.sources
            else f"medattn-edge compile CHECKPOINT -o {quoted(Path(output).name)}",
        )
    if Path(source).resolve() == Path(output).resolve():
        raise UsageError(f"{output} is the source itself", expected="another file to write to", hint="-o OTHER_NAME")
    parent = source_of(Path(source), compiler)
    is_graph = parent.path.suffix.lower() == ".onnx"
    lint = check_graph(_graph(parent.path), compiler.profile, hardware.isa_class(hardware.cpu())) if is_graph else ()
    return Plan(parent, Path(output), compiler, settings, lint)


def source_of(path: Path, compiler: Compiler) -> Source:
    """An artifact with its manifest, or a checkpoint with the one that its export would have: batch 1, without maps.

    Raises what `Artifact.read` and `models.checkpoint.load` raise.
    """
    if ".onnx" in compiler.sources:
        artifact = Artifact.read(path)
        return Source(artifact.path, artifact.manifest)
    from medattn_edge.exporters import ExportSettings, manifest_of
    from medattn_edge.models import checkpoint

    loaded = checkpoint.load(path)
    return Source(path, manifest_of(loaded, loaded.network, compiler.name, ExportSettings()))


def build(plan: Plan, samples: Mapping[str, Patches], progress: Progress | None = None) -> Artifact:
    """Compile as planned.

    Where the result runs on this host, it is opened in a process of its own and compared with its parent; where not,
    its `target` says under `verified` that it was not run, and why.

    Args:
        plan: what `plan` returned.
        samples: name -> real input float32 (n, C, *patch), to which noise is added.
        progress: is called while it compiles.

    Raises:
        AgreementError: when it crashes or does not agree; nothing is written.
        BackendError: when it cannot be compiled.
        HostError: when this host cannot compile or run it.
        OutputError: when the files cannot be written.
    """
    output = plan.output
    if not samples:
        raise UsageError("no real input to check with", expected="at least one patch", hint="--scan SCAN")
    with (
        writing(output) as files,
        # Under their own names, so that they are opened for the check as they will be for a scan.
        TemporaryDirectory(prefix=".", suffix=f".tmp.{output.name}", dir=output.parent) as folder,
        naming_full_disk(Path(folder) / "room", output),
    ):
        staged = stage(plan, Path(folder), progress)
        cases, verified = _verified(plan, staged, samples)
        manifest = staged.manifest
        manifest = replace(manifest, agreement=cases, target={**manifest.target, "verified": verified})
        return move_into(files, Artifact(staged.path, manifest), output)


def stage(plan: Plan, folder: Path, progress: Progress | None = None) -> Artifact:
    """Compile as planned into another folder, under the name that was planned; nobody has run it yet.

    Raises BackendError when it cannot be compiled, HostError.
    """
    staged = folder / plan.output.name
    others = {suffix: staged.with_suffix(suffix) for suffix in plan.compiler.companions}
    target = plan.compiler.compile(plan.source, {staged.suffix.lower(): staged, **others}, plan.settings, progress)
    manifest = _manifest(plan, target, staged, {suffix: path for suffix, path in others.items() if path.is_file()})
    manifest.write(manifest_path(staged))
    return Artifact(staged, manifest)


def compiler_for(output: Path, target: str | None, settings: CompileSettings) -> Compiler:
    """The compiler that writes a file, held to the settings.

    Raises:
        UsageError: as `compiler_of`, and for a setting that the compiler would not follow.
    """
    compiler = compiler_of(output, target)
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
    return compiler


def _graph(path: Path) -> Any:
    if find_spec("onnx") is None:  # without it nobody could say whether the runtime computes the graph as written
        raise MissingDependency.of_extra("onnx", "compile")
    import onnx

    return onnx.load(str(path))


def _manifest(plan: Plan, target: Mapping[str, Any], staged: Path, companions: Mapping[str, Path]) -> Manifest:
    parent = plan.source.manifest
    # `sha256` is empty for a checkpoint, whose child this file is: it was never exported.
    child = parent.child() if parent.sha256 else parent
    rest = {key: value for key, value in target.items() if key != "precision"}
    return replace(
        child,
        precision=target.get("precision", parent.precision),
        exporter=plan.compiler.name,
        sha256=sha256(staged),
        companions={suffix: sha256(path) for suffix, path in companions.items()},
        target={**rest, "lint": [asdict(finding) for finding in plan.lint], **plan.record},
    )


def _verified(
    plan: Plan, staged: Artifact, samples: Mapping[str, Patches]
) -> tuple[tuple[Mapping[str, Any], ...], str]:
    """The figures of the check, or none, and a sentence that says on what they were measured, or why not."""
    threads = plan.settings.threads
    try:
        candidate = opened(staged, threads)
    except HostError as error:
        if not for_gpu(staged.manifest):  # it was compiled for this very CPU
            raise
        return (), f"not run on this host: {error.found}"
    except BackendError as error:
        raise _unusable(plan, error) from error
    with candidate, reference_of(plan.source, threads) as reference:
        given = with_noise(samples, staged.manifest.spec)
        try:
            cases = check(reference, candidate, given, gates(plan.source.manifest, staged.manifest, given))
        except BackendError as error:
            raise _unusable(plan, error) from error
    gpu = candidate.facts.get("gpu")
    return tuple(cases), f"on this host{f' ({gpu})' if gpu else ''}, against {plan.source.path.name}"


def for_gpu(manifest: Manifest) -> bool:
    """Whether a compiled file runs on a GPU."""
    return "compute_capabilities" in manifest.target.get("runs_on", {})


def opened(staged: Artifact, threads: int) -> IsolatedSession:
    """A compiled file on the device that it was compiled for, in a process of its own; raises what that raises."""
    device = "cuda:0" if for_gpu(staged.manifest) else "cpu"
    return IsolatedSession(staged.path, options=Options(device, threads or usable_cores()))


def reference_of(source: Source, threads: int) -> Session:
    """What a compiled file must agree with: the file it was made from, in its own runtime."""
    is_checkpoint = not source.manifest.sha256
    spec = source.manifest.spec if is_checkpoint else None
    return open_session(source.path, threads=threads or usable_cores(), spec=spec)


def with_noise(samples: Mapping[str, Patches], spec: ModelSpec) -> dict[str, Patches]:
    """The samples, and two patches of noise."""
    noise = np.random.default_rng(0).random((2, spec.in_channels, *spec.patch), dtype=np.float32)
    return {**samples, _NOISE: noise}


def gates(parent: Manifest, compiled: Manifest, samples: Mapping[str, Patches]) -> dict[str, Thresholds]:
    """The gate of every sample of `with_noise` for a compiled file against the one it was made from.

    A gate that the file carries decides about its Dice, as it does wherever the file is judged later: what was found
    good enough beside true labels is not lost again to a stricter limit that nobody asked of it.
    """
    if {parent.precision, compiled.precision} == {"fp32"}:
        return dict.fromkeys(samples, FP32_ON_GPU if for_gpu(compiled) else FP32_ON_CPU)
    carried, real = compiled.gate, REDUCED.thresholds
    real = real if carried is None else replace(real, min_dice=carried.min_dice)
    return {**dict.fromkeys(samples, real), _NOISE: REDUCED_NOISE.thresholds}


def _unusable(plan: Plan, error: BackendError) -> AgreementError:
    """A runtime that crashes on its own file has given its verdict of it."""
    return AgreementError(
        f"what {plan.compiler.name} made of {plan.source.path.name} did not come through its check: {error.found}",
        expected="a file that runs",
        hint="nothing was written; run the file it was made from, or try another target",
    )
