"""Candidate: one file in one runtime, and what is asked of it before it may be timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from medattn_edge.agreement import Thresholds
from medattn_edge.backends.isolated import TIMEOUT_S, IsolatedSession
from medattn_edge.backends.runtimes import Runtime
from medattn_edge.backends.session import Options
from medattn_edge.compile.compilation import FP32_ON_CPU, FP32_ON_GPU, REDUCED
from medattn_edge.host.computed_precision import computed_in
from medattn_edge.host.cores import usable_cores
from medattn_edge.spec import ModelSpec

_EXACT_DB = 90.0  # what is asked of FP32 against FP32, and of nothing less


@dataclass(frozen=True)
class Candidate:
    """What is measured.

    name: the row's `artifact`. path: an artifact or a checkpoint. network: the record's name. precision: what it really
    computes in: fp32, fp16, int8 or bf16; stored: that of the file, where it is another. gate: on real input. gflop: of
    one patch, of the graph that it runs. opener: `module:function`, imported in the child. spec: of a checkpoint.
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
    spec: ModelSpec | None = None
    stored: str = ""
    optional: bool = False

    @property
    def exact(self) -> bool:
        """Whether its gate is one of FP32, which holds on noise as well."""
        return self.precision == "fp32" and (self.gate.min_sqnr_db or 0.0) >= _EXACT_DB

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
        )


@dataclass(frozen=True)
class Settings:
    """duration_s, warm_up_s: of each candidate. threads: 0 is one per usable core; they are always set.
    deadline_ms: what a run may take. timeout_s: the time limit of opening, and of one run. batch: patches of one run.
    """

    duration_s: float = 10.0
    warm_up_s: float = 1.0
    threads: int = 0
    deadline_ms: float | None = None
    timeout_s: float = TIMEOUT_S
    batch: int = 1

    def explicit(self) -> Settings:
        """With a number of threads: one for each core that this process may use."""
        return replace(self, threads=self.threads or usable_cores())


def computed_as(stored: str, runtime: Runtime) -> str:
    """The precision in which a runtime computes a file of a precision; see `host.computed_precision`."""
    of = runtime.backend
    return computed_in(stored, of, runtime.device, provider=runtime.provider, as_written=runtime.as_written)


def gate_of(stored: str, device: str, asked: Mapping[str, float] | None = None) -> Thresholds:
    """The usual gate of a file's precision on a device; asked: other floors by their names in Thresholds."""
    usual = REDUCED if stored != "fp32" else FP32_ON_CPU if device == "cpu" else FP32_ON_GPU
    return replace(usual, **(asked or {}))
