"""TorchScript artifacts, run by torch without our network code."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Artifact
from medattn_edge.backends.session import Backend, Options, Patches, Session
from medattn_edge.backends.torch.programs import forbidden_operator, reaches_files
from medattn_edge.backends.torch.session import TorchSession, prepare_torch
from medattn_edge.errors import BackendError

SUFFIX = ".torchscript"


class TorchScriptSession(TorchSession):
    """The artifact's module answers (logits, maps) when it was exported with attention maps, logits otherwise."""

    def __init__(self, artifact: Artifact, options: Options) -> None:
        facts = {"backend": "torchscript", **artifact.origin, **prepare_torch(options)}
        module = _load(artifact.path, options.device)
        names = artifact.manifest.attention_maps

        def logits(image: Any) -> Any:
            answer = module(image)
            return answer[0] if isinstance(answer, tuple) else answer

        def attention(image: Any) -> Any:
            answer = module(image)
            if not isinstance(answer, tuple):
                raise RuntimeError("the module has no attention output, although its manifest names one")
            return answer

        super().__init__(
            artifact.spec,
            options.device,
            logits,
            attention if names else None,
            batch=artifact.manifest.batch,
            fixed_patch=False,
            attention_names=names,
            facts=facts,
        )

    def _call(self, function: Callable[..., Any], patches: Patches) -> Any:
        import torch

        # On a CPU the executor's optimiser finds nothing that freezing has left, and stalls the first two runs; without
        # it the logits are the same bits.
        with torch.jit.optimized_execution(self._device != "cpu"):  # type: ignore[attr-defined]
            return super()._call(function, patches)


def _load(path: Path, device: str) -> Any:
    import torch

    from medattn_edge.backends.torch.deprecations import torchscript_is_deprecated

    check_program(path)
    try:
        with torchscript_is_deprecated():
            return torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise BackendError(
            f"torch {torch.__version__} cannot load {path.name}: {str(error).strip().splitlines()[0]}",
            expected="a TorchScript archive",
            hint="export the checkpoint again with this torch",
        ) from error


def check_program(path: Path, libraries: Collection[str] = ()) -> None:
    """Refuse a program that reaches files, or calls other libraries' operators, before anything of it is run.

    Args:
        path: of a TorchScript or torch.export archive.
        libraries: names of operators' libraries beside torch's that are taken.

    Raises BackendError.
    """
    try:
        found = forbidden_operator(path, libraries)
    except (OSError, ValueError) as error:
        raise BackendError(
            f"{path.name} cannot be looked through: {error}",
            expected="a program that medattn-edge wrote",
            hint="export the checkpoint again",
        ) from error
    if found:
        raise BackendError(
            f"{path.name} is a program that calls {found}" + (", which touches files" if reaches_files(found) else ""),
            expected="operators that compute and nothing else; it was not run",
            hint="export the checkpoint again, and find out who wrote this file",
        )


def _open(path: Path, options: Options) -> Session:
    return TorchScriptSession(Artifact.read(path), options)


BACKEND = Backend(name="torchscript", suffixes=(SUFFIX,), extra="torch", packages=("torch",), open=_open)
