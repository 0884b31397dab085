"""A source file as the reference: what a network computes as it came, whatever it came as, in FP32 on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from medattn_edge.artifact import manifest_path
from medattn_edge.backends.check import check
from medattn_edge.backends.session import Options, Session
from medattn_edge.backends.torch.eager import EagerSession
from medattn_edge.bundles import kind_of_folder, read_folder
from medattn_edge.errors import UsageError, quoted
from medattn_edge.exporters import ExportSettings, random_patches
from medattn_edge.exporters.exporter import FP32_GATE
from medattn_edge.foreign.adopt import IMAGE, LOGITS
from medattn_edge.foreign.cost import gflop as gflop_of_graph
from medattn_edge.foreign.network import ForeignNetwork, check_scores
from medattn_edge.foreign.read import read_foreign
from medattn_edge.foreign.sessions import Activated, Centred, OriginalOnnx
from medattn_edge.foreign.source import EXPORTED, ONNX, is_foreign, kind_of
from medattn_edge.models import checkpoint as checkpoints
from medattn_edge.models.checkpoint import Checkpoint
from medattn_edge.models.flops import gflop as gflop_of_network
from medattn_edge.spec import ModelSpec


@dataclass(frozen=True)
class SourceOptions:
    """What has to be said to read a source again, as it was said to export it.

    Attributes:
        network: `package.module:build` of a module of the user's own, which is run; or the name of a network.
        output: of a network from elsewhere, which output is the logits.
        config: settings of a checkpoint's network, or arguments of `build`.
        weights: of a checkpoint, which of several sets of weights.
        fold: of nnU-Net's results.
        spec: what it expects; needed where the candidate was not made from it, and the source does not say it itself.
    """

    network: str = ""
    output: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    fold: str = ""
    spec: ModelSpec | None = None

    @property
    def given(self) -> bool:
        """Whether anything is said."""
        return self != SourceOptions()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values without the spec, for a process of its own."""
        return {**asdict(replace(self, spec=None)), "config": dict(self.config)}


def is_source(path: Path, options: SourceOptions) -> bool:
    """Whether a reference has to be read by `SourceReference`: it is no artifact, and no checkpoint that says all."""
    if manifest_path(path).is_file():
        return False
    return options.given or path.is_dir() or is_foreign(path, options.network)


@dataclass(frozen=True)
class SourceReference:
    """A source that was read.

    Attributes:
        loaded: its network, under the spec that it is run with.
        made_from: whether the candidate was made from it.
        notes: what a reader of the figures should know.
    """

    loaded: Checkpoint | ForeignNetwork
    made_from: bool
    notes: tuple[str, ...]

    @property
    def spec(self) -> ModelSpec:
        """What it expects."""
        return self.loaded.spec

    @property
    def gflop(self) -> float:
        """Of one patch."""
        if isinstance(self.loaded, ForeignNetwork):
            return gflop_of_graph(self.loaded.graph.model)
        return gflop_of_network(self.loaded.network, self.loaded.spec)

    @classmethod
    def read(
        cls,
        path: Path,
        options: SourceOptions,
        candidate: ModelSpec | None,
        lineage: Sequence[str] = (),
        batch: int | None = None,
    ) -> SourceReference:
        """Read a source as the reference of a candidate.

        Args:
            path: an ONNX, TorchScript or torch.export file, a checkpoint, a MONAI bundle, or nnU-Net's results.
            options: what has to be said of it.
            candidate: the spec of what is held to it, None where that has none.
            lineage: the SHA-256 of all that the candidate was made from.
            batch: patches of one run of a network from elsewhere; None for its own number.

        Raises:
            UsageError: it is another network than the candidate's (channels, outputs, patch), or nobody says what it
                expects.
            InputError, CheckpointError, MissingDependency: as `export` does for such a source.
        """
        wanted = options.spec or candidate
        loaded = _loaded(path, options, wanted, batch)
        made_from = loaded.sha256 in lineage
        spec = options.spec or (candidate if made_from else None)
        notes = [*(loaded.notes if isinstance(loaded, ForeignNetwork) else loaded.remarks)]
        if not made_from:
            notes.append(f"the candidate was not made from {path.name}")
        if spec is None and loaded.foreign:
            raise UsageError(
                f"what {path.name} expects of a scan is not known: the candidate was not made from it",
                expected="the source that it was made from, or a spec for this one",
                hint="medattn-edge inspect CANDIDATE --spec > spec.json, then --spec spec.json where it is the same",
            )
        if spec is not None:
            _check_same_network(path, loaded, spec)
            loaded = loaded.with_spec(replace(spec, network=loaded.spec.network, config=loaded.spec.config))
        return cls(loaded, made_from, tuple(notes))

    def open(self, threads: int = 0) -> Session:
        """A session that answers logits.

        Raises:
            InputError: its answers are probabilities.
            AgreementError: its graph before a last activation is not what the program computes.
        """
        if isinstance(self.loaded, Checkpoint):
            self.loaded.network.check_shape(self.spec.patch)
            return EagerSession(self.loaded.network, self.spec, Options(threads=threads))
        return _logits_of(self.loaded, threads)


def open_source(
    path: Path,
    *,
    spec: ModelSpec,
    threads: int,
    options: Mapping[str, Any],
    batch: int,
    lineage: Sequence[str],
    **_: Any,
) -> Session:
    """As `open_session`, of a source, in the process of an IsolatedSession.

    Args:
        path: of the source.
        spec: of the candidates.
        threads: of the CPU.
        options: of `SourceOptions.to_json`.
        batch: patches of one run.
        lineage: what the candidates were made from.
    """
    return SourceReference.read(Path(path), SourceOptions(**options), spec, lineage, batch).open(threads)


def _loaded(
    path: Path, options: SourceOptions, wanted: ModelSpec | None, batch: int | None
) -> Checkpoint | ForeignNetwork:
    """The network of a source, read for the patch of a spec."""
    if path.is_dir() and kind_of_folder(path):
        orientation = "" if wanted is None else wanted.orientation
        read = read_folder(path, orientation=orientation, fold=options.fold)
        return replace(read.checkpoint, remarks=read.assumptions)
    if options.fold:
        raise UsageError(f"--fold for {path.name}", expected="a folder of nnU-Net's results", hint="leave --fold out")
    if is_foreign(path, options.network):
        known = {} if wanted is None else wanted.config
        return read_foreign(
            path,
            network=options.network if ":" in options.network else "",
            patch=None if wanted is None else wanted.patch,
            output=options.output or (str(known.get("logits", "")) if kind_of(path) == ONNX else ""),
            config=options.config,
            settings=ExportSettings(batch=batch or own_batch(path)),
        )
    config = {**({} if wanted is None else wanted.config), **options.config}
    return checkpoints.load(path, network=options.network or None, config=config, weights=options.weights or None)


def own_batch(path: Path) -> int:
    """The number of patches that a file from elsewhere is made for; 1 where it takes any."""
    kind = kind_of(path)
    if kind == ONNX:
        from medattn_edge.foreign.onnx_checks import image_of, shape_of
        from medattn_edge.foreign.onnx_file import read_onnx

        return (shape_of(image_of(read_onnx(path), path.name)) or [1])[0] or 1
    if kind == EXPORTED:
        from medattn_edge.foreign.torch_program import load_exported

        return (load_exported(path)[1] or [1])[0] or 1
    return 1


def _check_same_network(path: Path, loaded: Checkpoint | ForeignNetwork, spec: ModelSpec) -> None:
    for name, what in (("in_channels", "channels"), ("outputs", "outputs")):
        own, wanted = getattr(loaded.spec, name), getattr(spec, name)
        if own != wanted:
            raise UsageError(
                f"{path.name} is a network of {own} {what}, and the candidate one of {wanted}",
                expected="the source that the candidate was made from",
                hint=f"medattn-edge inspect {quoted(path)}",
            )


def _logits_of(network: ForeignNetwork, threads: int) -> Session:
    """The file's own logits; where a program answers what an activation made of them, those of its graph before it."""
    spec, graph, noise = network.spec, network.graph, {"random": random_patches(network.spec, network.batch or 1)}
    owner = network.open_reference(spec, network.batch, threads)
    if network.kind == ONNX or not graph.activation:
        check_scores(owner, noise)
        return owner
    before = OriginalOnnx(graph.model, spec, IMAGE, LOGITS, network.batch, threads)
    with owner:
        expected = Centred(owner) if graph.activation == "Sigmoid" else owner
        check(expected, Activated(before, graph.activation), noise, FP32_GATE)
    return before
