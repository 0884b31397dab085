"""Candidate: one file in one runtime, and what is asked of it before it may be timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medattn_edge.agreement import Thresholds
from medattn_edge.backends.isolated import TIMEOUT_S, IsolatedSession
from medattn_edge.backends.runtimes import Runtime
from medattn_edge.backends.session import Options
from medattn_edge.gates import FP32, REDUCED
from medattn_edge.host.computed_precision import computed_in
from medattn_edge.host.cores import usable_cores
from medattn_edge.spec import ModelSpec


@dataclass(frozen=True)
class BenchCandidate:
    """What is measured.

    Attributes:
        name: the row's `artifact`.
        path: an artifact or a checkpoint.
        runtime: where it is run.
        network: the record's name.
        precision: what it really computes in: fp32, fp16, int8 or bf16.
        gate: what it must reach on real input.
        gflop: of one patch, of the graph that it runs.
        opener: `module:function`, imported in the child.
        arguments: JSON values that it takes beside.
        spec: of a checkpoint.
        stored: the precision of the file, where it is another.
        optional: left out, and not failed, where its runtime turns out not to be here.
    """

    name: str
    path: Path
    runtime: Runtime
    network: str
    precision: str
    gate: Thresholds
    gflop: float
    opener: str = "medattn_edge.backends:open_session"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    spec: ModelSpec | None = None
    stored: str = ""
    optional: bool = False

    @property
    def exact(self) -> bool:
        """Whether its gate is one of FP32, which holds on noise as well."""
        return self.precision == "fp32" and (self.gate.min_sqnr_db or 0.0) >= FP32.limits["min_sqnr_db"]

    def open(self, threads: int, timeout_s: float) -> IsolatedSession:
        """A session in a process of its own; raises what IsolatedSession raises."""
        runtime = self.runtime
        return IsolatedSession(
            self.path,
            backend=runtime.backend,
            options=Options(runtime.device, threads, self.spec, runtime.optimise, runtime.provider),
            timeout_s=timeout_s,
            environment=runtime.environment,
            opener=self.opener,
            arguments=self.arguments,
        )


@dataclass(frozen=True)
class BenchSettings:
    """How candidates are timed.

    Attributes:
        duration_s: of the timing of each candidate.
        warm_up_s: before it.
        threads: of the CPU, 0 for as many as there are cores for this process; `explicit` sets them.
        deadline_ms: what a run may take, None to count none.
        timeout_s: what opening may take, and one run; beyond it the candidate has failed.
        batch: patches of one run.
    """

    duration_s: float = 10.0
    warm_up_s: float = 1.0
    threads: int = 0
    deadline_ms: float | None = None
    timeout_s: float = TIMEOUT_S
    batch: int = 1

    def explicit(self) -> BenchSettings:
        """With a number of threads: one for each core that this process may use."""
        return replace(self, threads=self.threads or usable_cores())


def computed_as(stored: str, runtime: Runtime) -> str:
    """The precision in which a runtime computes a file of a precision; see `host.computed_precision`."""
    of = runtime.backend
    return computed_in(stored, of, runtime.device, provider=runtime.provider, as_written=runtime.as_written)


def gate_of(stored: str, device: str, floors: Mapping[str, float] | None = None) -> Thresholds:
    """The usual gate of a file's precision; floors: others by their names in Thresholds."""
    usual = (FP32 if stored == "fp32" else REDUCED).thresholds.without_fp64()  # a run is compared file by file
    return replace(usual, **(floors or {}))
