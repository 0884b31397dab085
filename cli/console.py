"""What the commands say: results on stdout, everything else on stderr.

Nothing that comes from outside (labels, paths, DICOM texts) is markup, an emoji or an order to the terminal: whatever
is printed goes through `visible`, tables, errors and progress included.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .visible import visible

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

    from .plain import Plain

verbosity = 1
resume_hint = ""  # the command that goes on where this one is ended, while there is one

Callback = Callable[[int, int], None]
Stages = Callable[[str, int, int], None]


def _plain(*, stderr: bool = False, soft_wrap: bool = False) -> Plain:
    """Rich is loaded with the first line that it prints: --json needs none of it."""
    from .plain import Plain

    return Plain(stderr=stderr, soft_wrap=soft_wrap)


def say(text: str) -> None:
    """A result, on stdout."""
    _plain(soft_wrap=True).print(text)


def show(table: Table) -> None:
    """A table of results on stdout; its cells and titles are plain text, and no name in it is broken or cut."""
    from rich.table import Table as Whole

    from .tables import fitted, title_above

    stdout = _plain()
    found = fitted(table, stdout)
    if isinstance(found, Whole):
        for line in title_above(found, stdout):
            say(line)
    stdout.print(found, soft_wrap=not isinstance(found, Whole))


def show_side_by_side(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of figures; as several, each with the first column, where its columns do not fit beside each other."""
    from .tables import side_by_side

    for table in side_by_side(heads, rows, _plain()):
        show(table)


def note(text: str, *, level: int = 1) -> None:
    """A remark on stderr; level 0 is always said, 1 unless --quiet, 2 with --verbose."""
    if verbosity >= level:
        _plain(stderr=True, soft_wrap=True).print(text)


def print_json(document: Any) -> None:
    """The one JSON document of --json, on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, sort_keys=False, allow_nan=False) + "\n")


def wants_json() -> bool:
    """Whether this run answers in JSON, errors included."""
    return "--json" in sys.argv[1:]


def report(code: str, message: str, hint: str) -> None:
    """An error: JSON on stdout under --json; as text on stderr otherwise, and where stdout takes nothing."""
    if wants_json():
        print_json({"error": {"code": code, "message": message, "hint": hint}})
        sys.stdout.flush()
        if getattr(sys.stdout, "failure", None) is None:  # else the document has not arrived
            return
    report_on_stderr(message, hint)


def report_on_stderr(message: str, hint: str) -> None:
    """An error as text, whatever was asked for."""
    from rich.text import Text

    stderr = _plain(stderr=True, soft_wrap=True)
    stderr.print(Text.assemble(("error", "bold red"), f": {visible(message)}"))
    if hint:
        stderr.print(Text.assemble("  ", ("next", "bold"), f": {visible(hint)}"))


@contextmanager
def progress(description: str) -> Iterator[Callback]:
    """A callback (done, total) that draws a bar with elapsed time on stderr, when that is a terminal."""
    with _bar() as bar:
        task = bar.add_task(visible(description), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def stages() -> Iterator[Stages]:
    """A callback (what is going on, done, total) for work of several kinds: one bar that names what it is at."""
    with _bar() as bar:
        task = bar.add_task("starting", total=None)
        yield lambda what, done, total: bar.update(task, description=visible(what), completed=done, total=total)


@contextmanager
def cases() -> Iterator[Callable[[str, float, int], None]]:
    """A callback (case, cases done with the part of this one, cases in total): a bar with the time that is left."""
    with _bar("{task.fields[whole]}/{task.total}") as bar:
        task = bar.add_task("finding scans", total=None, whole=0)
        yield lambda case, done, total: bar.update(
            task, description=visible(case), completed=done, total=total, whole=int(done)
        )


def _bar(counts: str = "{task.completed}/{task.total}") -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    stderr = _plain(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn(counts),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal or verbosity == 0,
    )


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Notes how long a step took."""
    start = time.perf_counter()
    yield
    note(f"{what}: {time.perf_counter() - start:.1f} s", level=2)
