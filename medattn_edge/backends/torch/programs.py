"""What a TorchScript or torch.export file would call, read from its text before anything in it is run.

Such files are programs. Torch's own operators compute on tensors, but for two that reach files, and other libraries'
operators may do anything; a torch.export file can even name any function that torch has. What is not known is refused.
"""

from __future__ import annotations

import json
import operator
import re
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

FILE_OPERATORS: Final = frozenset({"save", "from_file"})
_MOST_BYTES: Final = 1 << 28  # of one text; a graph of a hundred thousand operators has a tenth
_LIBRARIES: Final = frozenset({"aten", "prim", "quantized"})
_EXPORTED_LIBRARIES: Final = _LIBRARIES | {"prims", "higher_order"}
# TorchScript allows blanks, line ends and comments wherever Python does.
_GAP: Final = r"(?:\s|\\|#[^\n]*\n)*"
_NAMES: Final = "|".join(sorted(FILE_OPERATORS))
_REACHES: Final = re.compile(rf"\.{_GAP}({_NAMES})\b|[\"']({_NAMES})[\"']")
_LIBRARY: Final = re.compile(rf"(?<![.\w])ops{_GAP}(?:\.{_GAP}(\w+)(?:{_GAP}\.{_GAP}(\w+))?)?")
# Names that are put together at run time: torch writes only those of submodules, and these plainly.
_HIDDEN: Final = re.compile(rf"\bgetattr{_GAP}\((?:{_GAP}(?:ops|torch|aten)\b|[^)]*\\)")
_TARGET: Final = re.compile(r"torch\.ops\.(\w+)\.(\w+)(?:\.\w+)?")
_PYTHON: Final = re.compile(r"_operator\.(\w+)|math\.(\w+)|torch\.(sym_\w+)")
# Of Python's operators those that only compute.
_NOT_ARITHMETIC: Final = frozenset({"attrgetter", "itemgetter", "methodcaller", "call", "setitem", "delitem"})
# sympy evaluates what it parses.
_EXPRESSION: Final = re.compile(r"[\w\s+\-*/%().,<>=&|~!]*")


def forbidden_operator(path: Path, libraries: Collection[str] = ()) -> str:
    """The first operator of a program that reaches files, or is of a library that is not torch's; "" for none.

    Nothing of the file is run.

    Args:
        path: of a TorchScript or torch.export archive.
        libraries: other names of operators' libraries that are taken.

    Raises:
        OSError: when the file cannot be read.
        ValueError: for what is no such archive, is damaged, or holds a text of more than 256 MiB.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.filename.endswith((".py", ".json")):
                    continue
                if entry.file_size > _MOST_BYTES:
                    raise ValueError(f"{entry.filename} has {entry.file_size} bytes")
                text = archive.read(entry).decode(errors="replace")
                if entry.filename.endswith(".py"):
                    found = _of_script(text, _LIBRARIES.union(libraries))
                else:
                    found = _of_export(json.loads(text), _EXPORTED_LIBRARIES.union(libraries))
                if found:
                    return found
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, RecursionError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    return ""


def reaches_files(operator_name: str) -> bool:
    """Whether an operator, as `forbidden_operator` names it, is one of torch's own that reach files."""
    return operator_name.rpartition("::")[2] in FILE_OPERATORS


def _of_script(text: str, libraries: Collection[str]) -> str:
    if named := _REACHES.search(text):
        return f"aten::{named[1] or named[2]}"
    for used in _LIBRARY.finditer(text):
        if used[1] not in libraries:
            return f"{used[1] or 'ops'}::{used[2] or 'getattr'}"
    return "prim::getattr" if _HIDDEN.search(text) else ""


def _of_export(value: Any, libraries: Collection[str]) -> str:
    for node in _dictionaries(value):
        target, expression = node.get("target"), node.get("expr_str")
        # Parameters and buffers have targets too, but no inputs.
        if isinstance(target, str) and "inputs" in node and not _is_known(target, libraries):
            parts = target.removeprefix("torch.ops.").split(".")
            return "::".join(parts[:2])
        if isinstance(expression, str) and ("__" in expression or not _EXPRESSION.fullmatch(expression)):
            return "sympy::sympify"
    return ""


def _is_known(target: str, libraries: Collection[str]) -> bool:
    if "__" in target.replace("__and__", "").replace("__or__", ""):
        return False
    if called := _TARGET.fullmatch(target):
        return called[1] in libraries and called[2] not in FILE_OPERATORS
    called = _PYTHON.fullmatch(target)
    if called is None:
        return False
    return called[1] is None or (hasattr(operator, called[1]) and called[1] not in _NOT_ARITHMETIC)


def _dictionaries(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of a JSON document, graphs in graphs included."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
