"""What was probably meant by a name that is not there: a file of the same folder, a key of the same document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from medattn_edge.errors import InputError, quoted

_MAX_LISTED: Final = 3
_MANIFEST: Final = re.compile(r"\.\w+\.json$")  # which nobody means who names a model


def missing(path: Path, expected: str, kind: type[InputError] = InputError, *, otherwise: str = "") -> InputError:
    """The error of a path that does not exist, whose hint names the file that was probably meant.

    Args:
        path: that is not there.
        expected: what it should be, `a scan`.
        kind: of the error.
        otherwise: the hint where no file is like it; by default the line that lists the folder.
    """
    return kind(f"{path} does not exist", expected=expected, hint=place_hint(path, otherwise))


def place_hint(path: Path, otherwise: str = "") -> str:
    """What to type in the place of a path that does not exist; arguments as of `missing`."""
    folder = path.parent
    if not folder.is_dir():
        above = next((one for one in folder.parents if one.is_dir()), Path())
        return f"the folder {folder} does not exist either: ls {quoted(above)}"
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        names = []
    models = [name for name in names if not _MANIFEST.search(name) or _MANIFEST.search(path.name)]
    if near := nearest(path.name, models):
        return quoted(path.with_name(near))
    alike = [name for name in models if path.suffix and name.endswith(path.suffix)]
    if 0 < len(alike) <= _MAX_LISTED and not otherwise:
        return " or ".join(quoted(path.with_name(name)) for name in alike)
    return otherwise or f"ls {quoted(folder)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like another, whatever the case of letters; empty where none is."""
    import difflib  # only where something is wrong

    folded = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[near[0]] if near else ""


def key_hint(key: str, known: Sequence[str], otherwise: str = "remove the line") -> str:
    """What to write in the place of a key that is not known, `near = ...`; otherwise: where none is like it."""
    near = nearest(key, known)
    return f"{near} = ..." if near else otherwise
