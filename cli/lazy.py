"""A group whose commands are imported when they are typed: a process loads the one module that it needs."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from . import console

_RUN_BARE = ("demo", "doctor")  # these do something without an argument; the others then show their help


class _Commands(MutableMapping[str, Any]):
    """Names in the order of the help, and the commands behind them, each made when it is first asked for."""

    def __init__(self, names: Sequence[str], ready: MutableMapping[str, Any]) -> None:
        self._made: dict[str, Any] = dict.fromkeys(names)
        self._made.update(ready)

    def __getitem__(self, name: str) -> Any:
        if self._made[name] is None:
            self._made[name] = _make(name)
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


def _make(name: str) -> Any:
    """The command or group of cli/NAME.py; these import heavy libraries inside their functions."""
    module = importlib.import_module(f".{name}", __package__)
    if hasattr(module, "app"):
        made: Any = typer.main.get_group(module.app)
    else:
        app = typer.Typer(add_completion=False)
        app.command(name, no_args_is_help=name not in _RUN_BARE)(module.command)
        made = typer.main.get_command(app)
    made.name = name
    for one in (made, *getattr(made, "commands", {}).values()):
        one.params += _verbosity()
    return made


def _say_more(given: bool) -> None:
    console.verbosity = 2 if given else console.verbosity


def _say_less(given: bool) -> None:
    console.verbosity = 0 if given else console.verbosity


def _takes_verbosity(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", callback=_say_more, expose_value=False, help="Say more on stderr.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", callback=_say_less, expose_value=False, help="Errors and results only.")
    ] = False,
) -> None:
    """Nothing: Typer makes options of its arguments."""


def _verbosity() -> list[Any]:
    """-v and -q of the program, which a command takes as well: people add them where they are, at the end of a line."""
    app = typer.Typer(add_completion=False)
    app.command()(_takes_verbosity)
    made: Any = typer.main.get_command(app)
    return list(made.params)


def group(names: Sequence[str]) -> type[typer.core.TyperGroup]:
    """A class for `typer.Typer(cls=...)` whose instances have these commands, beside those of the app itself.

    Args:
        names: of modules in this package, in the order of the help; each has a Typer function `command`, or a group
            of its own, `app`.
    """

    class LazyGroup(typer.core.TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            self.commands = _Commands(names, self.commands)

        def list_commands(self, ctx: Any) -> list[str]:
            """The names alone: Typer's own looks at every command for them."""
            return list(self.commands)

        def get_help_option(self, ctx: Any) -> Any:
            """`--help`, which is false where it is not typed: to make that of its None, Typer would load pydantic."""
            option = super().get_help_option(ctx)
            if option is not None:
                option.default = False
            return option

    return LazyGroup
