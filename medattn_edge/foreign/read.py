"""A file of anybody's -> a network that can be exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medattn_edge.artifact import manifest_path, sha256
from medattn_edge.backends.session import Session
from medattn_edge.errors import InputError, UsageError, quoted
from medattn_edge.exporters import ExportSettings
from medattn_edge.foreign.adopt import Adopted, adopt
from medattn_edge.foreign.attentions import attentions, notes_on
from medattn_edge.foreign.network import ForeignNetwork, default_spec
from medattn_edge.foreign.onnx_file import read_onnx
from medattn_edge.foreign.sessions import OriginalOnnx, OriginalTorch
from medattn_edge.foreign.source import EXPORTED, MODULE, ONNX, TITLES, TORCHSCRIPT, kind_of
from medattn_edge.models.checkpoint import Checkpoint
from medattn_edge.nearby import missing
from medattn_edge.spec import SPEC_OPTIONS, ModelSpec

if TYPE_CHECKING:
    from torch import nn


def read_foreign(
    path: Path | str,
    *,
    network: str = "",
    patch: Sequence[int] | None = None,
    output: str = "",
    config: Mapping[str, Any] | None = None,
    settings: ExportSettings | None = None,
) -> ForeignNetwork | Checkpoint:
    """Read a network that is not ours: an ONNX, TorchScript or torch.export file, or a checkpoint of the user's code.

    Args:
        path: NAME.onnx, a TorchScript or torch.export archive, or, with `network`, a checkpoint.
        network: `package.module:build`; the user's code, imported and called because he names it.
        patch: (H, W) or (D, H, W), where the file does not say it.
        output: the name of the logits, where there are several outputs; of ONNX, that of any tensor.
        config: arguments of `build`; of a TorchScript program `in_channels`, where its first convolution does not say
            it.
        settings: batch, and the opset of what is not ONNX yet.

    Returns:
        What `export` takes. A module of the user's own that answers logits is a checkpoint, so that the rewrites that
        know blocks apply to it.

    Raises:
        InputError: for a file that is no network from one image (N, C, *patch) to logits (N, K, *patch) in FP32.
        CheckpointError: for a checkpoint that is not the module's.
        UsageError: for what has to be said and was not, and for the user's code that raises.
    """
    path, settings, config = Path(path), settings or ExportSettings(), config or {}
    kind = MODULE if network else kind_of(path)
    if kind is None:
        raise InputError(
            f"{path.name} is no ONNX, TorchScript or torch.export file",
            expected="one of them, or a checkpoint with the code that builds its network",
            hint="--network package.module:build",
        )
    if manifest_path(path).is_file():
        raise UsageError(
            f"{path.name} has a manifest: it is exported already",
            expected="a network from elsewhere, or a checkpoint",
            hint=f"medattn-edge inspect {quoted(path)}, or remove {manifest_path(path).name} if it is another file's",
        )
    if kind != ONNX:
        if not path.is_file():
            raise missing(path, f"a {TITLES[kind]}")
        return _from_torch(path, kind, network, patch, output, config, settings)
    if config:
        raise UsageError(f"settings for {path.name}", expected="none: an ONNX file has its own", hint="leave --set out")
    model = read_onnx(path)
    graph = adopt(model, path.name, patch=patch, output=output, batch=settings.batch)

    def reference(spec: ModelSpec, batch: int | None, threads: int) -> Session:
        return OriginalOnnx(model, spec, graph.image, graph.logits, batch, threads)

    return _found(path, kind, graph, reference, settings)


def _from_torch(
    path: Path,
    kind: str,
    network: str,
    patch: Sequence[int] | None,
    output: str,
    config: Mapping[str, Any],
    settings: ExportSettings,
) -> ForeignNetwork | Checkpoint:
    from medattn_edge.foreign import torch_program as programs
    from medattn_edge.foreign.own_module import OwnNetwork, load_own, raised

    program: nn.Module
    if kind == EXPORTED:
        program, sizes = programs.load_exported(path)
        channels, patch = _sizes_of(path, sizes, patch, settings)
    elif kind == TORCHSCRIPT:
        program = programs.load_torchscript(path)
        channels, patch = programs.shape_of_image(program, path, patch, config)
    else:
        program = load_own(network, path, {key: value for key, value in config.items() if key != "in_channels"})
        shown = {key: value for key, value in config.items() if key == "in_channels"}
        channels, patch = programs.shape_of_image(program, path, patch, shown)
    shape = (settings.batch or 2, channels, *patch)
    try:
        module = programs.select(program, path, shape, output)
    except InputError as error:
        cause = error.__cause__
        raise (raised(cause, f"the network of {network} raises") if network and cause else error) from cause
    model = programs.to_onnx(module, kind, path, shape, settings.batch, settings.opset)
    graph = adopt(model, path.name, patch=patch, batch=settings.batch)
    if kind == MODULE and not graph.activation and module.key is None:
        spec = default_spec(kind, graph)
        own = OwnNetwork(program, tuple(patch)).eval()
        return Checkpoint(
            own, spec, sha256(path), f"{TITLES[kind]}, {network}", foreign=True, notes={}, assumed=tuple(SPEC_OPTIONS)
        )
    return _found(path, kind, graph, partial(OriginalTorch, module), settings)


def _sizes_of(
    path: Path, sizes: list[int], patch: Sequence[int] | None, settings: ExportSettings
) -> tuple[int, tuple[int, ...]]:
    """C and patch of an exported program, whose input has sizes, 0 where one is free."""
    text = f"{path.name} takes an image ({', '.join(str(size) if size else '?' for size in sizes)})"
    if len(sizes) not in (4, 5) or not sizes[1]:
        raise InputError(text, expected="(N, C, H, W) or (N, C, D, H, W) with a fixed C", hint="export it for images")
    if patch is None and not all(sizes[2:]):
        raise UsageError(
            f"{text}, whose sizes are free",
            expected="the patch that it will see",
            hint="--patch " + "x".join(["96" if len(sizes) == 5 else "256"] * (len(sizes) - 2)),
        )
    chosen = tuple(patch or sizes[2:])
    if len(chosen) != len(sizes) - 2 or any(own not in (0, size) for own, size in zip(sizes[2:], chosen, strict=True)):
        raise UsageError(
            f"the patch {'x'.join(map(str, chosen))}, and {text}",
            expected="the sizes that it was exported for",
            hint="--patch " + "x".join(str(size or "N") for size in sizes[2:]),
        )
    if sizes[0] and sizes[0] != settings.batch:
        raise UsageError(
            f"a batch of {settings.batch or 'any size'}, and {text}",
            expected=f"its own batch of {sizes[0]}",
            hint=f"--batch {sizes[0]}",
        )
    return sizes[1], chosen


def _found(path: Path, kind: str, graph: Adopted, reference: Any, settings: ExportSettings) -> ForeignNetwork:
    notes = []
    if kind == TORCHSCRIPT:
        notes.append(f"{path.name} is a program, and is run")
    if graph.activation:
        notes.append(f"its last node, a {graph.activation}, is cut off: the artifact answers logits")
    if graph.dropped:
        notes.append(f"its other outputs are left out: {', '.join(graph.dropped)}")
    if kind == ONNX and graph.opset != settings.opset:
        notes.append(f"it stays in opset {graph.opset}")
    notes += notes_on(attentions(graph.model))
    spec = default_spec(kind, graph)
    return ForeignNetwork(kind, spec, sha256(path), graph, reference, settings.batch, tuple(notes))
