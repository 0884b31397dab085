"""What tuning chooses from: the graphs that one network can be compiled from, each the same function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from medattn_edge.artifact import Artifact
from medattn_edge.backends.compiler import Source
from medattn_edge.backends.session import Options, Session
from medattn_edge.compile.compilation import reference_of
from medattn_edge.spec import ModelSpec

if TYPE_CHECKING:
    from medattn_edge.exporters import ExportSettings
    from medattn_edge.models.checkpoint import Checkpoint
    from medattn_edge.models.network import SegmentationNetwork
    from medattn_edge.rewrites import Rewritten

Rewrites = tuple[str, ...]
PLAIN: Rewrites = ("batch-norm",)
_ALWAYS = {"batch-norm", "training-parts"}  # nothing is ever faster without them
_EXPORTER = "onnx"


class Graphs(Protocol):
    """What tuning chooses from.

    Attributes:
        spec: what the network expects.
        default: the rewrites of the target's files; empty where there is no choice.
        optional: what can be toggled: those that would change this network and are not among the default's, then
            those among them that do.
    """

    spec: ModelSpec
    default: Rewrites
    optional: Rewrites

    def write(self, rewrites: Rewrites, path: Path) -> Artifact:
        """The graph with these rewrites; `path` is where it is written if it is not there already."""
        ...

    def reference(self, threads: int) -> Session:
        """What every file compiled from them must agree with."""
        ...

    def toggled(self, rewrites: Rewrites, name: str) -> Rewrites:
        """The rewrites with this one, and what it needs, or without it, and what needs it."""
        ...

    def command(self, rewrites: Rewrites) -> str:
        """What to type for the same graph; empty where it lies there."""
        ...


class GivenGraph:
    """A graph that is a file already, and its own reference.

    Args:
        path: of an artifact.
    """

    default: Rewrites = ()
    optional: Rewrites = ()

    def __init__(self, path: Path) -> None:
        self._artifact = Artifact.read(path)
        self.spec = self._artifact.spec
        self.precision = self._artifact.manifest.precision

    def write(self, rewrites: Rewrites, path: Path) -> Artifact:
        """The file itself."""
        return self._artifact

    def reference(self, threads: int) -> Session:
        """The file in its own runtime."""
        return reference_of(Source(self._artifact.path, self._artifact.manifest), threads)

    def toggled(self, rewrites: Rewrites, name: str) -> Rewrites:
        """There are none."""
        return rewrites

    def command(self, rewrites: Rewrites) -> str:
        """There is none."""
        return ""


class RewrittenGraphs:
    """A checkpoint's network with one set of rewrites or another; the reference is the checkpoint's own.

    Args:
        checkpoint: what is compiled.
        runtime: the compiler whose defaults they start from.
        settings: how the graphs are exported.
        rewrite: `rewrites.rewrite`, or what answers as it does.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        runtime: str,
        settings: ExportSettings,
        rewrite: Callable[[Checkpoint, Rewrites], Rewritten] | None = None,
    ) -> None:
        from medattn_edge import rewrites as library

        self.spec = checkpoint.spec
        self._checkpoint, self._settings, self._rewrite = checkpoint, settings, rewrite or library.rewrite
        self.default = library.defaults(runtime, self.spec.patch)
        self.optional = _optional(checkpoint.network, self.default)

    def write(self, rewrites: Rewrites, path: Path) -> Artifact:
        """Export to ONNX; raises AgreementError when it disagrees with the checkpoint's network already there."""
        from medattn_edge.exporters import export_fp32, random_patches

        rewritten = self._rewrite(self._checkpoint, rewrites)
        noise = {"random": random_patches(self.spec, 1)}  # the compiled file is what real input is given to
        return export_fp32(rewritten, path, noise, settings=self._settings)

    def reference(self, threads: int) -> Session:
        """The eager network in FP32 on the CPU."""
        from medattn_edge.backends.torch.eager import EagerSession

        return EagerSession(self._checkpoint.network, self.spec, Options(threads=threads))

    def toggled(self, rewrites: Rewrites, name: str) -> Rewrites:
        """See `rewrites.changed`."""
        from medattn_edge.rewrites import changed

        return changed(rewrites, left_out=[name]) if name in rewrites else changed(rewrites, added=[name])

    def command(self, rewrites: Rewrites) -> str:
        """The `export` that writes the same bytes."""
        from medattn_edge.rewrites import defaults

        usual = defaults(_EXPORTER, self.spec.patch)
        words = ["medattn-edge export CHECKPOINT -o NAME.onnx", "--patch " + "x".join(map(str, self.spec.patch))]
        words += [f"--batch {self._settings.batch or 'dynamic'}"]
        words += [f"--rewrite {name}" for name in rewrites if name not in usual]
        words += [f"--rewrite -{name}" for name in usual if name not in rewrites]
        return " ".join(words)


def _optional(network: SegmentationNetwork, default: Rewrites) -> Rewrites:
    """Every rewrite that finds something in this network, those that are not the default's first."""
    from medattn_edge.rewrites import changed, rewrite_network, rewrites

    together: set[str] = set()
    alone: list[str] = []
    for name, record in rewrites().items():  # some start from what others made: they are tried together
        beside = {other for other in together if name in rewrites()[other].excludes}
        if beside or together & {*record.excludes}:
            alone.append(name)
        else:
            together.add(name)
    plans: Sequence[Rewrites] = [changed(together), *(changed([name]) for name in alone)]
    effective = {step.name for names in plans for step in rewrite_network(network, names).plan} - _ALWAYS
    return tuple(sorted((name for name in rewrites() if name in effective), key=lambda name: name in default))
