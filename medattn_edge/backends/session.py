"""Session: a loaded artifact. Everything above it knows only this class."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medattn_edge.errors import BackendError, ShapeError, UsageError
from medattn_edge.spec import ModelSpec, check_patch

if TYPE_CHECKING:
    from typing_extensions import Self

Patches = npt.NDArray[np.float32]


class Session(ABC):
    """A network that is ready to run once it is constructed; close it, or use it as a context manager.

    It belongs to the process that opened it: a runtime's threads do not live on in a process that was forked from that
    one, and a run there would wait for them for ever, so it is refused.

    Attributes:
        spec: what the network expects.
        batch: the fixed number of patches of one run, or None for any.
        fixed_patch: True when every patch must have the size spec.patch; False when any multiple of spec.stride will
            do.
        attention_names: the names of the attention maps it can return, empty when it has none.
        facts: what ran where (backend, device, threads, versions), and an artifact's parent_sha256, for reports.
        in_flight: how many runs may be waited for at once, each in a thread of its own; 1 where the device is this
            host's, which one run fills.
        device_ms: how long the last run took on the device by its own clock, in ms; None where it has none, as on a
            CPU.
    """

    in_flight: int = 1
    device_ms: float | None = None

    def __init__(
        self,
        spec: ModelSpec,
        *,
        batch: int | None = None,
        fixed_patch: bool = True,
        attention_names: tuple[str, ...] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.spec, self.batch, self.fixed_patch = spec, batch, fixed_patch
        self.attention_names = attention_names
        self.facts = dict(facts or {})
        self._process = os.getpid()

    def run(self, patches: Patches) -> Patches:
        """Logits float32 (N, K, *patch) of patches float32 (N, C, *patch).

        The device has finished when this returns, and the result belongs to the caller.

        Raises:
            ShapeError: for patches that the network cannot take.
            BackendError: when the runtime fails, or in a process that was forked from that of the session.
        """
        self._check(patches)
        logits = self._run(np.ascontiguousarray(patches))
        self._check_answer(logits, patches, self.spec.outputs)
        return logits

    def run_with_attention(self, patches: Patches) -> tuple[Patches, Patches]:
        """Logits as `run` gives them, and attention maps float32 (N, A, *patch) in the order of attention_names.

        Raises:
            UsageError: when the session has no attention maps.
        """
        if not self.attention_names:
            raise UsageError(
                "this artifact has no attention output",
                expected="one exported with attention maps",
                hint="medattn-edge export CHECKPOINT -o NAME.onnx --attention",
            )
        self._check(patches)
        logits, maps = self._run_with_attention(np.ascontiguousarray(patches))
        self._check_answer(logits, patches, self.spec.outputs)
        self._check_answer(maps, patches, len(self.attention_names))
        return logits, maps

    def run_any(self, patches: Patches) -> Patches:
        """Logits as `run` gives them, of any number n >= 1 of patches float32 (n, C, *patch).

        One run where the batch is free, as many as are needed where it is fixed; see `filled_runs`.
        """
        return _joined([self.run(part)[:count] for part, count in filled_runs(patches, self.batch)])

    def run_any_with_attention(self, patches: Patches) -> tuple[Patches, Patches]:
        """Logits and attention maps as `run_with_attention` gives them, of any number n >= 1 of patches."""
        parts = [(*self.run_with_attention(part), count) for part, count in filled_runs(patches, self.batch)]
        return _joined([one[:count] for one, _, count in parts]), _joined([maps[:count] for _, maps, count in parts])

    def run_in_fp64(self, patches: Patches) -> npt.NDArray[np.float64] | None:
        """The same network's logits float64 (N, K, *patch), computed in FP64; None where a session cannot.

        An artifact's precision is in its graph: only a network in memory can be computed in another.
        """
        return None

    @abstractmethod
    def _run(self, patches: Patches) -> Patches:
        """`run` without its checks; patches are C-contiguous."""

    def _run_with_attention(self, patches: Patches) -> tuple[Patches, Patches]:
        """`run_with_attention` without its checks; a session with attention_names overrides it."""
        raise BackendError("this session names attention maps that it cannot compute", hint="please report this bug")

    def close(self) -> None:
        """Give back what the runtime holds; a session that holds nothing needs not override it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, patches: Patches) -> None:
        if os.getpid() != self._process:
            raise BackendError(
                "this session was opened before this process was forked, and the runtime's threads are not here",
                expected="a run in the process that opened it",
                hint="open the artifact in the forked process",
            )
        spec = self.spec
        if patches.dtype != np.float32 or patches.ndim != 2 + spec.dims or patches.shape[1] != spec.in_channels:
            raise ShapeError(
                f"patches of shape {patches.shape}, {patches.dtype}",
                expected=f"float32 (N, {spec.in_channels}, {', '.join(map(str, spec.patch))})",
                hint="give the network what its spec says: medattn-edge inspect FILE",
            )
        if (self.batch is not None and patches.shape[0] != self.batch) or patches.shape[0] < 1:
            raise ShapeError(
                f"{patches.shape[0]} patches in one run",
                expected=f"{self.batch or 'at least one'}",
                hint="export with --batch dynamic to run any number",
            )
        if self.fixed_patch and patches.shape[2:] != spec.patch:
            raise ShapeError(
                f"patches of {patches.shape[2:]}",
                expected=f"exactly {spec.patch}",
                hint="export with --patch " + "x".join(map(str, patches.shape[2:])),
            )
        try:
            check_patch(patches.shape[2:], spec.stride)
        except UsageError as error:
            raise ShapeError(error.found, expected=error.expected, hint=error.hint) from error

    def _check_answer(self, answer: Patches, patches: Patches, channels: int) -> None:
        expected = (patches.shape[0], channels, *patches.shape[2:])
        if answer.shape != expected or answer.dtype != np.float32:
            raise BackendError(
                f"the runtime answered {answer.dtype} {answer.shape}",
                expected=f"float32 {expected}",
                hint="compare the artifact with its checkpoint: medattn-edge compare",
            )


class GraphSession(Session):
    """A session of a runtime that gives the outputs of a graph by their names."""

    def _run(self, patches: Patches) -> Patches:
        [logits] = self._answers(["logits"], patches)
        return logits

    def _run_with_attention(self, patches: Patches) -> tuple[Patches, Patches]:
        logits, maps = self._answers(["logits", "attention"], patches)
        return logits, maps

    @abstractmethod
    def _answers(self, names: list[str], patches: Patches) -> list[Patches]:
        """The outputs of those names in that order; patches are C-contiguous."""


def closed() -> BackendError:
    """What running a session after `close` raises."""
    return BackendError("this session is closed", expected="an open one", hint="open the artifact again")


def filled_runs(patches: Patches, batch: int | None) -> Iterator[tuple[Patches, int]]:
    """Patches (n, ...) as runs of a batch, each with how many of its patches are from the caller.

    The last run of a fixed batch is filled by repeating its last patch: a patch like the others costs what they cost,
    and adds nothing to the range of values that a run sees.
    """
    step = batch or max(1, len(patches))
    for start in range(0, max(1, len(patches)), step):  # without a patch one run, which a session refuses
        part = patches[start : start + step]
        missing = step - len(part) if batch and len(part) else 0
        yield (np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part), len(part)


def _joined(parts: list[Patches]) -> Patches:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


@dataclass(frozen=True)
class Options:
    """How to open a session.

    Attributes:
        device: cpu or cuda:INDEX.
        threads: of the CPU; 0 leaves it to the runtime.
        spec: what to hold a checkpoint to instead of its own, or its network's default, spec; an artifact has its own
            and takes no other.
        optimise: let the runtime rewrite the graph (ONNX Runtime only): off, it is run as it was written.
        provider: of ONNX Runtime on a GPU, cuda or tensorrt; elsewhere it must be empty.
        shared_cores: whether other sessions, in other processes, compute on the same cores at the same time: none is
            tied to a core then.
    """

    device: str = "cpu"
    threads: int = 0
    spec: ModelSpec | None = None
    optimise: bool = True
    provider: str = ""
    shared_cores: bool = False


@dataclass(frozen=True)
class Backend:
    """The record of a backend file.

    Attributes:
        name: as --backend takes it.
        suffixes: of the files it opens.
        extra: of pyproject.toml, that installs it.
        packages: what must be importable.
        open: path, options -> Session.
        default: whether it opens its files when nobody says which backend does.
        gpu_only: whether its files run on an NVIDIA GPU alone: `auto` takes the first for them, else the CPU.
        on_request: suffixes of those that it opens only when it is named.
    """

    name: str
    suffixes: tuple[str, ...]
    extra: str
    packages: tuple[str, ...]
    open: Callable[[Path, Options], Session]
    default: bool = True
    gpu_only: bool = False
    on_request: tuple[str, ...] = ()
