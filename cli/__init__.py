"""The command line: one file per command, each with its Typer function `command`, or a group `app`."""

from __future__ import annotations

import difflib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from medattn_edge.atomic import FULL
from medattn_edge.errors import InputError, MedattnError, OutputError

from . import console, streams
from .examples import example_of
from .lazy import group

_BROKEN_PIPE = 141  # 128 + SIGPIPE, as when `head` has seen enough
_INTERRUPTED = 130  # 128 + SIGINT, as shells say it
_TERMINATED = 143  # 128 + SIGTERM
_COMMANDS = (
    "demo",
    "train",
    "export",
    "calibrate",
    "compile",
    "deploy",
    "inspect",
    "infer",
    "compare",
    "bisect",
    "explain",
    "report",
    "bench",
    "lint",
    "doctor",
    "node",
    "release",
    "serve",
)


def _is_about_the_shell() -> bool:
    """Whether completion can be meant: asked for, being done, or listed by the help of all.

    Its options cost every other command 50 ms of imports.
    """
    return "_MEDATTN_EDGE_COMPLETE" in os.environ or all(word.startswith("-") for word in sys.argv[1:2])


app = typer.Typer(
    name="medattn-edge",
    cls=group(_COMMANDS),
    help="Attention networks for medical image segmentation: from a checkpoint to a verified artifact.",
    no_args_is_help=True,
    add_completion=_is_about_the_shell(),
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


# Typer carries its own copy of click, whose base of all exceptions it does not export: those that it does lead there.
_ClickException = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


_LEFT_OUT = ("MissingParameter", "NoArgsIsHelpError")  # nothing that was typed is wrong


class _Terminated(BaseException):
    """SIGTERM, which leaves a command the way Ctrl-C does: through every `finally`."""


def main() -> None:
    """Run a command and turn its outcome into the exit code of the conventions; a bug keeps its traceback."""
    with streams.guarded() as out:
        code = _run()
        out.flush()
        lost = out.failure
        if lost is not None:
            code = code or _of_lost_output(lost)
    sys.exit(code)


def _run() -> int:
    """The exit code of the command that was typed."""
    console.resume_hint = ""
    try:
        _check_arguments()
        with _ended_by_sigterm():
            code = app(standalone_mode=False)
        if code == _INTERRUPTED:  # Typer's own answer to Ctrl-C
            console.report("interrupted", "interrupted", console.resume_hint)
    except MedattnError as error:
        console.report(error.code, error.message, error.hint)
        return error.exit_code
    except OSError as error:
        full = _of_full_disk(error)
        if full is None:
            raise
        console.report(full.code, full.message, full.hint)
        return full.exit_code
    except _ClickException as error:
        console.report("usage", *_usage(error))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        console.report("interrupted", "interrupted", console.resume_hint)
        return _INTERRUPTED
    except _Terminated:
        console.report("terminated", "terminated", console.resume_hint)
        return _TERMINATED
    return code if isinstance(code, int) else 0


def _of_full_disk(error: OSError) -> OutputError | None:
    """The error of a disk that is full, whichever file a library was at; None for any other."""
    if error.errno not in FULL:
        return None
    place = os.fsdecode(error.filename) if error.filename else tempfile.gettempdir()
    return OutputError(
        f"cannot write {place}: {error.strerror}",
        expected="free space, also for temporary files",
        hint="df -h; TMPDIR=FOLDER puts temporary files on another disk",
    )


def _of_lost_output(error: OSError) -> int:
    """The exit code when results did not arrive, which is said, but not of a pipe that nobody reads any more."""
    if isinstance(error, BrokenPipeError):
        return _BROKEN_PIPE
    lost = OutputError(
        f"cannot write to stdout: {error.strerror or error}",
        expected="room for the results; the files that the command wrote are whole",
        hint="send stdout to a terminal or to a file on a disk with free space",
    )
    console.report_on_stderr(lost.message, lost.hint)
    return lost.exit_code


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM raises in the main thread, so that temporary files go; `node` puts its own handler in the place."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one would stop the cleaning up
        raise _Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _check_arguments() -> None:
    """Refuse a file name that is not UTF-8: no manifest could record it, and many runtimes cannot open it.

    Raises:
        InputError: naming it, with the line that gives it another name.
    """
    for argument in sys.argv[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"the file name {argument!r} is not UTF-8: byte 0x{ord(argument[error.start]) & 0xFF:02x}",
                expected="names in UTF-8",
                hint=f"mv {_bash_quoted(argument)} ANOTHER_NAME",
            ) from None


def _bash_quoted(argument: str) -> str:
    r"""As bash takes bytes that are no text: $'caf\xe9'."""
    printable = range(0x20, 0x7F)
    parts = [
        chr(byte) if byte in printable and chr(byte) not in "'\\" else f"\\x{byte:02x}"
        for byte in argument.encode(errors="surrogateescape")
    ]
    return f"$'{''.join(parts)}'"


def _usage(error: Any) -> tuple[str, str]:
    """What is wrong with the words that were typed, with the nearest option, and a line that would be right."""
    context = getattr(error, "ctx", None)
    message: str = error.format_message() or "no arguments"  # Typer has printed the help, and has no words of its own
    wrong = getattr(error, "option_name", None)
    if context is None:
        return message, "medattn-edge --help"
    known = [option for parameter in context.command.params for option in parameter.opts if option.startswith("--")]
    near = difflib.get_close_matches(wrong, known, n=1) if wrong else []
    if near and near[0] not in message:
        message = f"{message.rstrip('.')} Did you mean {near[0]}?"
    example = example_of(context) if type(error).__name__ in _LEFT_OUT else ""
    return message, example or f"{context.command_path} --help"
