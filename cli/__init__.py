"""The command line: one file per command, each with its Typer function `command`."""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import Annotated, Any

import typer

from medattn_edge.errors import MedattnError

from . import console

_INTERRUPTED = 130  # 128 + SIGINT, as shells say it
_COMMANDS = (
    "demo",
    "train",
    "export",
    "calibrate",
    "compile",
    "inspect",
    "infer",
    "compare",
    "bench",
    "lint",
    "doctor",
)

app = typer.Typer(
    name="medattn-edge",
    help="Attention networks for medical image segmentation: from a checkpoint to a verified artifact.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        console.say(f"medattn-edge {version('medattn-edge')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors and results only.")] = False,
) -> None:
    console.verbosity = 2 if verbose else 0 if quiet else 1


for _name in _COMMANDS:
    # The modules import heavy libraries inside their functions, so that --help stays instant.
    _command = importlib.import_module(f".{_name}", __name__).command
    app.command(_name, no_args_is_help=_name not in ("demo", "doctor"))(_command)


app.add_typer(importlib.import_module(".node", __name__).app, name="node")

# Typer carries its own copy of click, whose base of all exceptions it does not export: those that it does lead there.
_ClickException = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def main() -> None:
    """Run a command and turn its outcome into the exit code of the conventions; a bug keeps its traceback."""
    try:
        code = app(standalone_mode=False)
        if code == _INTERRUPTED:  # Typer's own answer to Ctrl-C
            console.report("interrupted", "interrupted", "")
    except MedattnError as error:
        console.report(error.code, error.message, error.hint)
        code = error.exit_code
    except _ClickException as error:
        console.report("usage", *_usage(error))
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        console.report("interrupted", "interrupted", "")
        code = _INTERRUPTED
    sys.exit(code if isinstance(code, int) else 0)


def _usage(error: Any) -> tuple[str, str]:
    """What is wrong with the words that were typed, with the nearest option, and where they are explained."""
    context = getattr(error, "ctx", None)
    message: str = error.format_message()
    wrong = getattr(error, "option_name", None)
    if context is None:
        return message, "medattn-edge --help"
    known = [option for parameter in context.command.params for option in parameter.opts if option.startswith("--")]
    near = difflib.get_close_matches(wrong, known, n=1) if wrong else []
    if near and near[0] not in message:
        message = f"{message.rstrip('.')} Did you mean {near[0]}?"
    return message, f"{context.command_path} --help"
