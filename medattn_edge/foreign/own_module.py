"""A module of the user's own, built by the code that he names: `--network package.module:build`."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from medattn_edge.errors import CheckpointError, MedattnError, UsageError, quoted
from medattn_edge.models.checkpoint_file import read_file
from medattn_edge.models.network import SegmentationNetwork
from medattn_edge.nearby import missing as missing_file

_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
_DEPTH = 4


class OwnNetwork(SegmentationNetwork):
    """Any module from one image to logits of its size, as the rest of the house takes a network.

    Args:
        module: (N, C, *spatial) -> (N, K, *spatial).
        patch: the one size that it has been seen with.
    """

    def __init__(self, module: nn.Module, patch: tuple[int, ...]) -> None:
        super().__init__(patch, ())
        self.module = module

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, K, *spatial)."""
        return self.module(image)  # type: ignore[no-any-return]

    def forward_attention(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The logits and no maps, (N, 0, *spatial): a module of somebody else has none with names."""
        return self(image), image[:, :0]


def load_own(reference: str, path: Path, settings: Mapping[str, Any]) -> nn.Module:
    """What the user's function builds, filled strictly with a checkpoint, on the CPU in evaluation mode.

    Args:
        reference: `package.module:function`, or a dotted path to it behind the colon. It is imported and called,
            because the user names it.
        path: the checkpoint: a state_dict, at the top or nested, with or without a wrapper's prefix.
        settings: arguments of the function, by name.

    Raises:
        UsageError: when there is no such function, and with file and line of the user's code when it raises.
        CheckpointError: when the checkpoint's keys or shapes are not the module's.
    """
    build = _function(reference)
    try:
        network = build(**settings)
    except MedattnError:
        raise
    except Exception as error:
        raise raised(error, f"{reference} raises") from error
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"{reference} returns an object of the type {type(network).__name__}",
            expected="a torch.nn.Module",
            hint="return the network itself, without weights",
        )
    if not path.is_file():
        raise missing_file(path, "a checkpoint", CheckpointError)
    content, _ = read_file(path)
    network = network.cpu()
    own = network.state_dict()
    if not own:
        raise UsageError(
            f"the network of {reference} has no weights", expected="a trained network", hint="build it whole"
        )
    states = list(_states(content))
    state = next((one for one in states if one.keys() == own.keys()), None)
    if state is None:
        nearest = max(states, key=lambda one: len(one.keys() & own.keys()), default={})
        missing, extra = sorted(own.keys() - nearest.keys()), sorted(nearest.keys() - own.keys())
        raise CheckpointError(
            f"{path.name} is no state_dict of {reference}: {len(missing)} keys are missing ({_some(missing)}) and "
            f"{len(extra)} are not the network's ({_some(extra)})",
            expected=f"its {len(own)} keys",
            hint="build it with the settings of the training: --set KEY=VALUE",
        )
    if wrong := [key for key, value in own.items() if value.shape != state[key].shape]:
        key = wrong[0]
        raise CheckpointError(
            f"{key} is {tuple(state[key].shape)} in {path.name} and {tuple(own[key].shape)} in {reference}",
            expected="equal shapes",
            hint="build it with the settings of the training: --set KEY=VALUE",
        )
    if infinite := [key for key, value in state.items() if not torch.isfinite(value).all()]:
        raise CheckpointError(
            f"{path.name} has values that are not finite in {infinite[0]}",
            expected="finite weights",
            hint="take a checkpoint from before the training diverged",
        )
    network.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()}, strict=True)
    return network.float().eval()


def raised(error: BaseException, what: str) -> UsageError:
    """The error for the user's own code that raised: its file and line.

    Args:
        error: what it raised.
        what: the subject and verb, such as `nets:build raises`.
    """
    where = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_library(frame.filename)]
    place = f" at {where[-1].filename}:{where[-1].lineno}" if where else ""
    lines = str(error).strip().splitlines()
    return UsageError(
        f"{what} {type(error).__name__}{place}: {lines[0] if lines else 'no message'}",
        expected="code that builds and runs the network",
        hint="run it by itself: python -c 'import package.module'; arguments are given by --set KEY=VALUE",
    )


def _is_library(file: str) -> bool:
    """Whether a frame is not the user's: ours, torch's, or the standard library's."""
    if "site-packages" in Path(file).parts:
        return file.rpartition("site-packages")[2].lstrip("/").startswith(("torch/", "medattn_edge/"))
    return file.startswith((str(Path(__file__).resolve().parents[1]), "<", str(Path(os.__file__).parent)))


def _function(reference: str) -> Any:
    module_name, _, path = reference.partition(":")
    if not module_name or not path or not all(part.isidentifier() for part in f"{module_name}.{path}".split(".")):
        raise UsageError(
            f"the network {reference!r}", expected="package.module:function", hint="--network mynets.unet:build"
        )
    found: Any = _imported(module_name, reference)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UsageError(
            f"{module_name} has no function {path}",
            expected="one that returns the network",
            hint=f"--network {module_name}:build",
        )
    return found


def _imported(name: str, reference: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(
                f"there is no module {error.name} for --network {reference}",
                expected=f"one that is installed or on the path, {len(sys.path)} folders",
                hint=f"PYTHONPATH=FOLDER medattn-edge ... --network {quoted(reference)}",
            ) from error
        raise raised(error, f"{name} cannot be imported:") from error
    except Exception as error:
        raise raised(error, f"{name} cannot be imported:") from error


def _states(content: Mapping[str, Any], depth: int = 0) -> Iterator[dict[str, Tensor]]:
    """Every group of tensors in a checkpoint, as it is and without a wrapper's prefixes."""
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    while state:
        yield state
        prefix = next((one for one in _PREFIXES if all(key.startswith(one) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    for value in content.values():
        if isinstance(value, Mapping) and depth < _DEPTH:
            yield from _states(value, depth + 1)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "") if keys else "none"
