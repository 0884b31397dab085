"""Files of tensors, read without running anything that they say."""

from __future__ import annotations

import pickle
import re
import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medattn_edge.errors import CheckpointError
from medattn_edge.models.harmless import STAND_INS

# torch words every failure of its restricted unpickler alike; only these are about code and not about damage.
# Operands 140 to 151 are pickle protocol 4 and 5, which it does not read.
_CODE = re.compile(r"GLOBAL \S+|unrecognized function|Can only (create|build)|operand 1(4\d|5[01])")
# Whatever the file holds, module or dictionary, under whatever key: only its dictionaries of tensors.
_CONVERT = (
    "import sys, torch; "
    'p = lambda v: p(v.state_dict()) if hasattr(v, "state_dict") else p(dict(enumerate(v))) '
    "if isinstance(v, (list, tuple)) else {str(k): w for k, x in v.items() for w in [p(x)] if w is not None} "
    'if hasattr(v, "items") else v if torch.is_tensor(v) else None; '
    'torch.save(p(torch.load(sys.argv[1], map_location="cpu", weights_only=False)), sys.argv[2])'
)


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The file's content and the metadata that only safetensors has.

    Raises:
        CheckpointError: The file is damaged, of another kind, or pickled code.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        with torch.serialization.safe_globals(STAND_INS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(pickle protocol|TorchScript archive)", category=UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _CODE.search(str(error)) is None:
            raise _damaged(path, error) from error
        match = re.search(r"GLOBAL ([\w.]+)", str(error))
        name = f" ({match[1]})" if match else ""
        raise CheckpointError(
            f"{path.name} holds pickled Python objects{name}, which run code when they are loaded",
            expected="a state_dict, with nothing but numbers, texts, paths, dates and arrays beside it",
            hint=f"where you trust the file and have its code: {conversion_command(path)}",
        ) from error
    except Exception as error:
        raise _damaged(path, error) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path.name} holds a {type(content).__name__}",
            expected="a state_dict, or a dictionary with one",
            hint="torch.save(network.state_dict(), 'NAME.pth') with the code that trained it",
        )
    return dict(content), {}


def conversion_command(path: Path) -> str:
    """What to type in a POSIX shell to write NAME.state.pth, the tensors of a pickled file and nothing else."""
    words = ("python", "-c", _CONVERT, str(path), str(path.with_name(f"{path.stem}.state.pth")))
    return shlex.join(words)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    telling = isinstance(error, RuntimeError | OSError) or type(error).__name__ == "SafetensorError"
    reason = (
        str(error).strip().splitlines()[0]
        if telling and str(error).strip()
        else "it is cut short, damaged or something else"
    )
    return CheckpointError(
        f"{path.name} cannot be read: {reason}",
        expected="a whole safetensors or torch file, its suffix saying which",
        hint="copy the file again and compare its size with the original's",
    )
