"""Files of tensors, read without running anything that they say."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medattn_edge.errors import CheckpointError

# torch words every failure of its restricted unpickler alike; only these are about code and not about damage.
# Operands 140 to 151 are pickle protocol 4 and 5, which it does not read.
_CODE = re.compile(r"GLOBAL \S+|unrecognized function|Can only (create|build)|operand 1(4\d|5[01])")
_CONVERT = (
    "m = torch.load('{0}', weights_only=False); "
    "torch.save(m.state_dict() if hasattr(m, 'state_dict') else m['state_dict'], '{1}')"
)
_DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")
_SCALAR = np.float64(0.0).__reduce__()[0]
# What trainers put beside the weights: numbers, names and options, none of which runs code when it is unpickled. The
# scalar's constructor has two names, as NumPy 2 moved it.
_HARMLESS: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    argparse.Namespace,
    *(type(np.dtype(kind)) for kind in _DTYPES),
]


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
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(pickle protocol|TorchScript archive)", category=UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _CODE.search(str(error)) is None:
            raise _damaged(path, error) from error
        command = _CONVERT.format(path, path.with_name(f"{path.stem}.state.pth"))
        raise CheckpointError(
            f"{path.name} holds pickled Python objects, which run code when they are loaded",
            expected="a state_dict",
            hint=f'where you trust the file and have its code: python -c "import torch; {command}"',
        ) from error
    except Exception as error:
        raise _damaged(path, error) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path.name} holds a {type(content).__name__}",
            expected="a state_dict, or a dictionary with one",
            hint="save network.state_dict()",
        )
    return dict(content), {}


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
