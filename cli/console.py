"""What the commands say: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

verbosity = 1

Callback = Callable[[int, int], None]
Stages = Callable[[str, int, int], None]


def say(text: str) -> None:
    """A result, on stdout, exactly as it is."""
    Console(soft_wrap=True, highlight=False, markup=False, emoji=False).print(text)


def show(table: Table) -> None:
    """A table of results on stdout."""
    Console().print(table)


def note(text: str, *, level: int = 1) -> None:
    """A remark on stderr; level 0 is always said, 1 unless --quiet, 2 with --verbose."""
    if verbosity >= level:
        Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(text)


def print_json(document: Any) -> None:
    """The one JSON document of --json, on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, sort_keys=False, allow_nan=False) + "\n")


def wants_json() -> bool:
    """Whether this run answers in JSON, errors included."""
    return "--json" in sys.argv[1:]


def report(code: str, message: str, hint: str) -> None:
    """An error: JSON on stdout under --json, otherwise text on stderr with what to do next."""
    if wants_json():
        print_json({"error": {"code": code, "message": message, "hint": hint}})
        return
    stderr = Console(stderr=True, soft_wrap=True, highlight=False)
    stderr.print(f"[bold red]error[/]: {escape(message)}")
    if hint:
        stderr.print(f"  [bold]next[/]: {escape(hint)}")


@contextmanager
def progress(description: str) -> Iterator[Callback]:
    """A callback (done, total) that draws a bar with elapsed time on stderr, when that is a terminal."""
    with _bar() as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def stages() -> Iterator[Stages]:
    """A callback (what is going on, done, total) for work of several kinds: one bar that names what it is at."""
    with _bar() as bar:
        task = bar.add_task("starting", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _bar() -> Progress:
    stderr = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
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
