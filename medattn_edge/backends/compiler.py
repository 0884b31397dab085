"""Compiler: an artifact (or a checkpoint) becomes a faster one for one runtime. One record per backend that can."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Manifest
from medattn_edge.errors import MissingDependency, UsageError, quoted
from medattn_edge.nearby import nearest
from medattn_edge.registry import records

Progress = Callable[[int, int], None]  # steps done, steps in total


@dataclass(frozen=True)
class CompileSettings:
    """What the command line may choose; a compiler refuses with UsageError what it cannot follow.

    Attributes:
        compute_capabilities: of the GPUs to build for, such as ("sm86", "sm89"); empty: the GPU of this host.
        workspace_mib: the most scratch memory on the GPU, None for the compiler's own limit.
        timing_cache: a file of kernel timings to read and extend.
        hardware_compatible: also for newer GPUs, if slower.
        inference_precision: in which OpenVINO computes what the graph has in FP32: f32, or bf16 on request.
        threads: of the CPU; 0 leaves it to the runtime.
    """

    compute_capabilities: tuple[str, ...] = ()
    workspace_mib: int | None = None
    timing_cache: Path | None = None
    hardware_compatible: bool = False
    inference_precision: str = "f32"
    threads: int = 0


@dataclass(frozen=True)
class Source:
    """What is compiled.

    Attributes:
        path: of the file.
        manifest: of the file; for a checkpoint, the one that its export would have.
    """

    path: Path
    manifest: Manifest


@dataclass(frozen=True)
class Compiler:
    """The record (COMPILER) of a backend file that compiles.

    Attributes:
        name: of the target.
        suffixes: of the files it writes.
        sources: suffixes of the files it reads.
        extra: of pyproject.toml.
        packages: what must be importable.
        profile: of the lint rules to hold the graph to.
        compile: source, suffix -> temporary path for the model and every companion, settings, progress -> the
            manifest's `target`, JSON values: `runs_on` says what the file needs (versions, CPU, GPU), and a session
            refuses what does not fit; `precision` is that of the artifact, where it is not the source's.
        settings: names of the CompileSettings fields that it follows.
        companions: suffixes of files it may write beside the model.
        default: whether it writes its files when nobody says which compiler does.
    """

    name: str
    suffixes: tuple[str, ...]
    sources: tuple[str, ...]
    extra: str
    packages: tuple[str, ...]
    profile: str
    compile: Callable[[Source, Mapping[str, Path], CompileSettings, Progress | None], dict[str, Any]]
    settings: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    default: bool = True


def compilers() -> dict[str, Compiler]:
    """Every compiler by name, installed or not."""
    return {record.name: record for record in records("medattn_edge.backends", "COMPILER")}


def compiler_of(path: Path, name: str | None = None) -> Compiler:
    """The compiler that writes a file: the named one, or the default of the file's suffix.

    Raises UsageError for a name or a suffix that is not known, MissingDependency for one that is not installed.
    """
    known, suffix = compilers(), Path(path).suffix.lower()
    if name is not None and name not in known:
        raise UsageError(
            f"the target {name!r} is not known",
            expected=f"one of {', '.join(known)}",
            hint=f"--target {nearest(name, known) or next(iter(known))}",
        )
    fitting = [
        one for one in known.values() if suffix in one.suffixes and (one.name == name or (not name and one.default))
    ]
    if not fitting:
        wanted = {s: one.name for one in known.values() if name in (None, one.name) for s in one.suffixes}
        raise UsageError(
            f"no compiler writes {Path(path).name}" if name is None else f"{name} does not write {Path(path).name}",
            expected="a name that ends in " + ", ".join(f"{s} ({target})" for s, target in wanted.items()),
            hint=f"-o {quoted(Path(path).stem + next(iter(wanted)))}",
        )
    missing = [package for package in fitting[0].packages if find_spec(package) is None]
    if missing:
        raise MissingDependency.of_extra(missing[0], fitting[0].extra)
    return fitting[0]
