"""The alternatives that tuning tries, each compiled, opened in a process of its own, and held to the reference."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from medattn_edge.artifact import Artifact
from medattn_edge.backends.check import CachedReference, check
from medattn_edge.backends.compiler import Compiler, CompileSettings
from medattn_edge.backends.isolated import IsolatedSession
from medattn_edge.backends.session import Patches, Session, filled_runs
from medattn_edge.compile.compilation import gates, opened, plan, stage, with_noise
from medattn_edge.compile.graphs import Graphs, Rewrites

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Alternative:
    """One way to make the file.

    Attributes:
        rewrites: of the graph.
        settings: of the compiler.
    """

    rewrites: Rewrites
    settings: CompileSettings


@dataclass(frozen=True)
class Outcome:
    """The outcome of one alternative; what was not timed is None.

    Attributes:
        name: of the alternative.
        alternative: how the file was made.
        outcome: default, kept, no gain, refused, same or untried.
        reason: why.
        sqnr_db: the lowest of its samples, against the reference.
        p50_ms: of one run.
        ratio: the default's time over this one's.
        quartiles: of that ratio.
        ratio_declined: why the ratio is no figure beyond this choice: the host was busy; empty where it is one.
        ratio_to_best: the time of the best one until then over this one's.
        rounds: pairs that were timed.
    """

    name: str
    alternative: Alternative
    outcome: str
    reason: str = ""
    sqnr_db: float | None = None
    p50_ms: float | None = None
    ratio: float | None = None
    quartiles: tuple[float, float] | None = None
    ratio_declined: str = ""
    ratio_to_best: float | None = None
    rounds: int = 0

    def to_json(self, compiler: Compiler) -> dict[str, Any]:
        """Plain JSON values; settings: those that the compiler follows."""
        rest = {key: value for key, value in vars(self).items() if key != "alternative"}
        quartiles = None if self.quartiles is None else list(self.quartiles)
        settings = {name: getattr(self.alternative.settings, name) for name in compiler.settings}
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
        return {**rest, "quartiles": quartiles, "rewrites": list(self.alternative.rewrites), "settings": plain}


@dataclass(frozen=True)
class OpenAlternative:
    """An alternative that was compiled, agrees, and is open.

    Attributes:
        alternative: how the file was made.
        graph: what it was compiled from.
        folder: has all its files.
        session: on the compiled file.
        sqnr_db: the lowest of its samples, against the reference.
    """

    alternative: Alternative
    graph: Artifact
    folder: Path
    session: IsolatedSession
    sqnr_db: float

    def discard(self) -> None:
        """Close it and delete its files."""
        self.session.close()
        shutil.rmtree(self.folder)


class TrialRunner:
    """Tries alternatives, one after the other; the sessions that are open when it is closed are closed.

    Args:
        graphs: what is compiled.
        output: where the file will be, for its name.
        compiler: the target.
        samples: name -> real input float32 (n, C, *patch); noise is added to it.
        folder: a folder of its own.
    """

    def __init__(
        self, graphs: Graphs, output: Path, compiler: Compiler, samples: Mapping[str, Patches], folder: Path
    ) -> None:
        self.graphs, self.compiler = graphs, compiler
        self._output, self._folder, self._stack = output, folder, ExitStack()
        self._samples = with_noise(samples, graphs.spec)
        self._reference: Session | None = None
        self._names: dict[Any, str] = {}  # what is the same file -> the name of the alternative that it was made for
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every session."""
        self._stack.close()

    def patches(self, batch: int | None) -> Patches:
        """What is timed: the first real patch, as often as a run takes it."""
        first = next(iter(self._samples.values()))[:1]
        [(run, _)] = filled_runs(first, batch)
        return np.ascontiguousarray(run)

    def run(
        self, name: str, alternative: Alternative, like: OpenAlternative | None = None
    ) -> OpenAlternative | Outcome:
        """Compile an alternative, open it and hold it to the reference.

        Args:
            name: of the alternative.
            alternative: how to make the file.
            like: one that may have its graph.

        Returns:
            It, open; or the outcome of an alternative that is no other file than one before.

        Raises:
            AgreementError: for one that does not agree.
            BackendError: for one that cannot be compiled or run.
            InputError: for a graph that breaks the rules of the target.
        """
        if duplicate := self._duplicate(name, alternative):
            return Outcome(name, alternative, "same", f"the same as {duplicate}")
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        try:
            result = self._try_in(folder, name, alternative, like)
        except BaseException:
            shutil.rmtree(folder)
            raise
        if isinstance(result, Outcome):
            shutil.rmtree(folder)
        return result

    def _try_in(
        self, folder: Path, name: str, alternative: Alternative, like: OpenAlternative | None
    ) -> OpenAlternative | Outcome:
        if like is not None and like.alternative.rewrites == alternative.rewrites:
            graph = like.graph
        else:
            graph = self.graphs.write(alternative.rewrites, folder / f"{self._output.stem}.onnx")
            if duplicate := self._duplicate(name, (graph.manifest.sha256, alternative.settings)):
                return Outcome(name, alternative, "same", f"its graph is that of {duplicate}")
        planned = plan(graph.path, self._output, self.compiler.name, alternative.settings)
        (folder / "compiled").mkdir()
        staged = stage(planned, folder / "compiled")
        content = (staged.manifest.sha256, *staged.manifest.companions.values(), alternative.settings.threads)
        if duplicate := self._duplicate(name, content):
            return Outcome(name, alternative, "same", f"it compiles to the file of {duplicate}")
        session = self._stack.enter_context(opened(staged, alternative.settings.threads))
        try:
            thresholds = gates(graph.manifest, staged.manifest, self._samples)
            cases = check(self._cached_reference(alternative.settings.threads), session, self._samples, thresholds)
        except BaseException:
            session.close()
            raise
        return OpenAlternative(alternative, graph, folder, session, min(case["sqnr_db"] for case in cases))

    def _duplicate(self, name: str, key: Any) -> str:
        """The alternative that had this key before; none has from now on."""
        first = self._names.setdefault(key, name)
        return first if first != name else ""

    def _cached_reference(self, threads: int) -> Session:
        if self._reference is None:
            self._reference = CachedReference(self.graphs.reference(threads))
        return self._reference
