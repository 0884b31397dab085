"""TorchScript and torch.export programs: run on the CPU as they came, and written as ONNX by torch's exporters."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from medattn_edge.backends.torch.deprecations import torchscript_is_deprecated
from medattn_edge.backends.torch.programs import forbidden_operator
from medattn_edge.errors import InputError, MedattnError, UsageError
from medattn_edge.foreign.source import TORCHSCRIPT

_FILE_OPS = ("aten::save", "aten::from_file")
_TENSORS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_MAX_SCRIPT_OPSET = 20  # of torch's exporter for TorchScript


class Selected(nn.Module):
    """A program of which one output is taken.

    Args:
        program: a module of one image.
        key: of the output, where it answers a tuple, a list or a dictionary.
    """

    def __init__(self, program: nn.Module, key: int | str | None) -> None:
        super().__init__()
        self.program, self.key = program, key
        self.training = False

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, *patch) -> the output, (N, K, *patch)."""
        answer = self.program(image)
        return answer if self.key is None else answer[self.key]  # type: ignore[no-any-return]


def load_torchscript(path: Path) -> nn.Module:
    """The program of a TorchScript archive, on the CPU, in evaluation mode.

    A TorchScript file is a program and loading it runs parts of it; one that writes or maps files is refused before
    that.

    Raises:
        InputError: for such a program, one with operators of other libraries, a damaged file, and weights that are not
            float32.
    """
    _check_operators(path, "TorchScript")
    try:
        with torchscript_is_deprecated():
            program = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise _unreadable(path, "TorchScript", error) from error
    kinds = {node.kind(): node for node in _nodes(program.inlined_graph)}
    for kind in _FILE_OPS:
        if kind in kinds:
            _refuse_operator(path, kind)
    for node in _nodes(program.inlined_graph):
        if node.kind() in ("aten::dropout", "aten::batch_norm") and _is_training(node):
            raise _trained(path, node.kind())
    _check_weights(path, program)
    return program  # type: ignore[no-any-return]


def load_exported(path: Path) -> tuple[nn.Module, list[int]]:
    """The program of a `torch.export` archive, and the sizes of its input, 0 where one is free.

    Raises:
        InputError: for a damaged file, several inputs, training mode, and what is not float32.
    """
    _check_operators(path, "a torch.export program")
    try:
        with _quiet(), _without_pickled_code():
            exported = torch.export.load(str(path))
    except Exception as error:  # whatever torch's reader meets in a damaged file
        raise _unreadable(path, "a torch.export program", error) from error
    names = list(exported.graph_signature.user_inputs)
    inputs = [node for node in exported.graph.nodes if node.op == "placeholder" and node.name in names]
    values = [node.meta.get("val") for node in inputs]
    if len(values) != 1 or not isinstance(values[0], Tensor):
        found = ", ".join(f"{node.name} {tuple(getattr(node.meta.get('val'), 'shape', ()))}" for node in inputs)
        raise InputError(
            f"{path.name} has {len(values)} inputs: {found or 'none'}",
            expected="one image (N, C, *patch)",
            hint="torch.export.export(model, (image,))",
        )
    if values[0].dtype != torch.float32:
        raise InputError(
            f"the input of {path.name} is {values[0].dtype}", expected="torch.float32", hint="model.float()"
        )
    for node in exported.graph.nodes:
        name = str(node.target)
        arguments = {"aten.dropout.default": 2, "aten.batch_norm.default": 5}
        if name in arguments and len(node.args) > arguments[name] and node.args[arguments[name]] is True:
            raise _trained(path, name)
    program = exported.module()
    _check_weights(path, program)
    return program, [size if isinstance(size, int) else 0 for size in values[0].shape]


def shape_of_image(
    program: nn.Module, path: Path, patch: Sequence[int] | None, settings: Mapping[str, Any]
) -> tuple[int, tuple[int, ...]]:
    """C and patch for a program that does not carry its input's shape.

    Args:
        program: its first convolution says C and the number of axes.
        path: of the file, for errors.
        patch: what was asked for.
        settings: `in_channels` counts instead.

    Raises:
        UsageError: without a patch, and for settings that mean nothing here.
        InputError: without a convolution.
    """
    if unknown := sorted(set(settings) - {"in_channels"}):
        raise UsageError(
            f"the settings {', '.join(unknown)} of {path.name}", expected="in_channels", hint="--set in_channels=1"
        )
    kernels = [value.shape for value in program.parameters() if value.dim() in (4, 5)]
    kernels += [value.shape for value in program.buffers() if value.dim() in (4, 5)]
    if not kernels:
        raise InputError(
            f"{path.name} has no convolution", expected="a network of images", hint="export the whole network"
        )
    axes = len(kernels[0]) - 2
    if patch is None or len(patch) != axes:
        raise UsageError(
            f"{path.name} does not say the size of its input",
            expected=f"the patch that it will see, {axes} sizes",
            hint="--patch " + "x".join(["96" if axes == 3 else "256"] * axes),
        )
    channels = settings.get("in_channels", int(kernels[0][1]))
    if type(channels) is not int or channels < 1:
        raise UsageError(f"in_channels {channels!r}", expected="a number of at least 1", hint="--set in_channels=1")
    return channels, tuple(patch)


def select(program: nn.Module, path: Path, shape: Sequence[int], output: str) -> Selected:
    """The program with the one output that is the logits.

    Args:
        program: of one image.
        path: of the file, for errors.
        shape: (N, C, *patch) of an image to try it with.
        output: the key or the number of the output, where there are several.

    Raises:
        InputError: when it fails, or answers no tensors.
        UsageError: for several outputs of which none was named, and for a name that is none of them.
    """
    image = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            answer = program(image)
    except MedattnError:
        raise
    except Exception as error:
        lines = [line for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
        raise InputError(
            f"{path.name} fails on an image {tuple(shape)}: {lines[-1]}",
            expected="a network that takes it",
            hint="--patch with another size, --set in_channels=N for other channels, --batch for another batch",
        ) from error
    if isinstance(answer, Tensor):
        if output:
            raise UsageError(f"{path.name} has one output", expected="no name for it", hint="leave --output-name out")
        return Selected(program, None)
    parts: dict[int | str, Any] = dict(answer) if isinstance(answer, Mapping) else {}
    parts = parts or (dict(enumerate(answer)) if isinstance(answer, tuple | list) else {})
    if not parts or not all(isinstance(part, Tensor) for part in parts.values()):
        raise InputError(
            f"{path.name} answers a {type(answer).__name__}", expected="a tensor, or several", hint="return the logits"
        )
    by_name = {str(key): key for key in parts}
    if len(parts) == 1 and not output:
        return Selected(program, next(iter(parts)))
    if output not in by_name:
        listed = "; ".join(f"{key} {tuple(part.shape)}" for key, part in parts.items())
        raise UsageError(
            f"{path.name} has {len(parts)} outputs: {listed}" + (f", and none is {output}" if output else ""),
            expected="to be told which one is the logits",
            hint=f"--output-name {next(iter(by_name))}",
        )
    return Selected(program, by_name[output])


def to_onnx(module: Selected, kind: str, path: Path, shape: Sequence[int], batch: int | None, opset: int) -> Any:
    """The ModelProto that torch's exporter makes of a program.

    Args:
        module: what is exported.
        kind: TORCHSCRIPT goes through the exporter that reads TorchScript, everything else through torch.export.
        path: of the file, for errors.
        shape: (N, C, *patch) of its input.
        batch: the fixed N, or None for any.
        opset: of ONNX.

    Raises:
        InputError: when torch cannot write it as ONNX.
        UsageError: for an opset that it cannot be written in.
    """
    if kind == TORCHSCRIPT and opset > _MAX_SCRIPT_OPSET:
        raise UsageError(
            f"opset {opset} for a TorchScript program",
            expected=f"opset 18 to {_MAX_SCRIPT_OPSET}",
            hint=f"--opset {_MAX_SCRIPT_OPSET}",
        )
    image = torch.zeros(batch or 2, *shape[1:])
    try:
        with _quiet():
            if kind != TORCHSCRIPT:
                return _exported(module, image, batch, opset)
            try:
                return _scripted(module, image, batch, opset)
            except Exception:
                if batch is None:
                    raise
                # Its exporter does not know the types in every list and loop; what runs for one size has neither.
                with torch.no_grad():
                    return _exported(make_fx(module)(image), image, batch, opset)
    except Exception as error:
        raise InputError(
            f"torch cannot write {path.name} as ONNX: {_reason(error)}",
            expected="operators and control flow that ONNX has" + ("" if batch else ", for any batch"),
            hint="--batch 1" if batch is None else "export it to ONNX where its code is, and give that file",
        ) from error


def _exported(module: nn.Module, image: Tensor, batch: int | None, opset: int) -> Any:
    program = torch.onnx.export(
        module,
        (image,),
        dynamo=True,
        opset_version=opset,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=None if batch else ({0: torch.export.Dim("N")},),
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _scripted(module: Selected, image: Tensor, batch: int | None, opset: int) -> Any:
    import onnx

    script = module.program if module.key is None else torch.jit.trace(module, image)  # type: ignore[no-untyped-call]
    options: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits"]}
    options["dynamic_axes"] = None if batch else {"image": {0: "N"}, "logits": {0: "N"}}
    file: Any = io.BytesIO()
    torch.onnx.export(script, (image,), file, dynamo=False, opset_version=opset, **options)
    return onnx.load_from_string(file.getvalue())


def operators_of(program: nn.Module) -> dict[str, int]:
    """Operator -> how many, of a TorchScript or an exported program."""
    if isinstance(program, torch.fx.GraphModule):
        called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        return dict(sorted(Counter(called).items()))
    kinds = Counter(node.kind() for node in _nodes(program.inlined_graph) if node.kind().startswith("aten::"))
    return dict(sorted(kinds.items()))


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause, without the colours of a terminal."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    line = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return line.partition("  [Caused by")[0]


def _check_weights(path: Path, program: nn.Module) -> None:
    values = [*program.named_parameters(), *program.named_buffers()]
    if wrong := [f"{name} is {value.dtype}" for name, value in values if _is_not_fp32(value)]:
        raise InputError(
            f"{path.name} has weights that are not float32: {wrong[0]}",
            expected="torch.float32",
            hint="model.float() before it is saved; medattn-edge makes FP16 of that: --precision fp16",
        )


def _is_not_fp32(value: Tensor) -> bool:
    return value.is_quantized or value.is_complex() or (value.is_floating_point() and value.dtype != torch.float32)


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _is_training(node: Any) -> bool:
    """Whether a dropout or a BatchNorm of a traced program has its training mode as a constant True."""
    place = {"aten::dropout": 2, "aten::batch_norm": 5}[node.kind()]
    return bool(list(node.inputs())[place].toIValue() is True)


def _trained(path: Path, operator: str) -> InputError:
    return InputError(
        f"{path.name} was made in training mode: {operator} looks at the batch or at chance",
        expected="a network in evaluation mode",
        hint="model.eval() before it is traced or exported",
    )


def _check_operators(path: Path, what: str) -> None:
    """Before anything of the file is run."""
    try:
        found = forbidden_operator(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, what, error) from error
    if found:
        _refuse_operator(path, found)


@contextlib.contextmanager
def _without_pickled_code() -> Iterator[None]:
    """torch.export.load would unpickle whatever is there when its tensors are none; torch has this to forbid it."""
    before = os.environ.get(_TENSORS_ONLY)
    os.environ[_TENSORS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_TENSORS_ONLY]
        else:
            os.environ[_TENSORS_ONLY] = before


def _refuse_operator(path: Path, operator: str) -> None:
    files = operator in _FILE_OPS
    raise InputError(
        f"{path.name} is a program that calls {operator}" + (", which touches files" if files else ""),
        expected="torch's own operators, and none that touches files",
        hint="export it to ONNX where you trust it and have its libraries",
    )


def _unreadable(path: Path, what: str, error: Exception) -> InputError:
    return InputError(
        f"{path.name} cannot be read as {what}: {_reason(error)}",
        expected=f"a file that torch {torch.__version__} can load",
        hint="copy the file again, or export it with this version of torch",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporters talk: of torchvision, of what is deprecated, and of where they are."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._export")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
