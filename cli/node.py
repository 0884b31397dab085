"""node: DICOM in, DICOM SEG out, beside the scanner."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medattn_edge.atomic import check_folder
from medattn_edge.errors import MedattnError, MissingDependency, OutputError, UsageError, quoted
from medattn_edge.host.system import check_node_host

from . import console

if TYPE_CHECKING:
    from medattn_edge.scanner.config.node_config import NodeConfig
    from medattn_edge.scanner.store.custody import Custody

Option = typer.Option
Config = Annotated[Path, Option("--config", metavar="FILE", help="The node's TOML file; `node init` writes one.")]
Json = Annotated[bool, Option("--json", help="One JSON document on stdout.")]

app = typer.Typer(context_settings={"help_option_names": ["-h", "--help"]})


@app.callback(invoke_without_command=True)
def command(
    context: typer.Context,
    config: Annotated[
        Path | None, Option("--config", metavar="FILE", help="The node's TOML file; `node init` writes one.")
    ] = None,
    dump_config: Annotated[
        bool, Option("--dump-config", help="Check the file, print every value as TOML, and end.")
    ] = False,
) -> None:
    """DICOM in, DICOM SEG out: receive or watch a folder, segment, deliver; nothing is lost.

    Runs until SIGTERM or Ctrl-C, and finishes what it works on. SIGHUP reads the file again.
    """
    check_node_host()
    if context.invoked_subcommand is not None:
        if config is not None or dump_config:
            line = f"medattn-edge node {context.invoked_subcommand}"
            raise UsageError(
                "options before the name of a sub-command",
                expected="them behind it",
                hint=f"{line} --config {quoted(config)}" if config is not None else f"{line} --help",
            )
        return
    if config is None:
        raise UsageError(
            "a node without a configuration",
            expected="--config FILE",
            hint="medattn-edge node init ARTIFACT -o node.toml",
        )
    if dump_config:
        # Not through rich, which makes pictures of names between colons.
        sys.stdout.write(_load(config).dump())
        return
    _require()
    from medattn_edge.scanner.node import run

    code = run(config)
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        # A thread of pynetdicom that waits for an archive would hold the process beyond its limit; all is durable.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if code:
        raise typer.Exit(code)


@app.command("init")
def init(
    artifact: Annotated[Path, typer.Argument(help="What segments: a file that export, calibrate or compile wrote.")],
    output: Annotated[Path, Option("--output", "-o", help="The TOML file to write; an existing one is kept.")],
    root: Annotated[Path, Option("--root", help="Folder of everything that the node keeps.")] = Path("node"),
    watch: Annotated[Path, Option("--watch", help="Folder to take DICOM files from.")] = Path("incoming"),
    results: Annotated[Path, Option("--results", help="Folder to write segmentations to.")] = Path("results"),
) -> None:
    """Write a commented configuration that works as it is: a folder in, a folder out."""
    from medattn_edge.artifact import Artifact
    from medattn_edge.scanner.config.channels import channel_names
    from medattn_edge.scanner.config.example import example
    from medattn_edge.scanner.config.load import load_config

    _require()
    check_folder(output)
    channels: tuple[str, ...] = ()
    with suppress(MedattnError):  # said with its place when the file is read below
        channels = channel_names(Artifact.read(artifact).spec)
    text = example(root, watch, artifact.absolute(), results, channels)
    made = False
    try:
        with output.open("x", encoding="utf-8") as file:
            made = True
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise UsageError(
            f"{output} exists", expected="a new file", hint=f"-o {quoted(output.stem + '-2.toml')}"
        ) from error
    except OSError as error:
        if made:
            output.unlink(missing_ok=True)  # a cut one would stand in the way of the next try
        raise OutputError(
            f"cannot write {output}: {error.strerror}",
            expected="free space and permission to write",
            hint=f"df -h {quoted(output.parent)}; ls -ld {quoted(output.parent)}",
        ) from error
    try:
        loaded = load_config(output)
        _make_folders(loaded)
    except MedattnError:
        output.unlink()
        raise
    console.say(f"{output}: DICOM from {watch}, segmentations to {results}")
    if len(channels) > 1:
        console.note(
            f"the descriptions of the channels {', '.join(channels)} are guesses: correct them in {output} first"
        )
    console.note(f"next: medattn-edge node --config {quoted(output)}")


@app.command("status")
def status(
    config: Config,
    json: Json = False,
    ready: Annotated[
        bool, Option("--ready", help="Exit code 1 unless the node runs and is ready: for health checks.")
    ] = False,
) -> None:
    """Show a node: its series, times, quarantine and deliveries. Works on a node that does not run, too.

    --json: the document of /status.json; where no node answers, what the database has of it.
    """
    from .node_text import tell_status

    loaded = _load(config)
    document = _running(loaded) or _silent(loaded)
    if json:
        console.print_json(document)
    else:
        tell_status(document, config)
    if ready and not (document["running"] and document["ready"]):
        raise typer.Exit(1)


@app.command("check")
def check(config: Config, json: Json = False) -> None:
    """Try what the file names: every model opens and passes its canary, every destination takes things.

    A model gets a worker process as in the node; an archive a C-ECHO; a folder a file that is removed again;
    who may ask for storage commitment, an association for the answer.
    Nothing is segmented or delivered, and a node may run meanwhile. The exit code is that of the first that fails:
    6 for a model, 3 for a destination, 5 for an artifact that was changed, 2 for the file itself.
    """
    from medattn_edge.scanner.check import check_node
    from medattn_edge.scanner.observe.allowlist import allowed_values
    from medattn_edge.scanner.observe.log import Log

    from .node_text import tell_check

    loaded = _load(config)
    results = []
    for result in check_node(loaded, Log(allow=allowed_values(loaded))):
        results.append(result)
        if not json:
            tell_check(result)
    if not json and loaded.storage_commitment.enabled:
        days = loaded.storage_commitment.keep_days
        console.say(f"storage commitment: what is promised stays for at least {days:g} days after the last promise")
    if json:
        console.print_json({"ok": all(one.ok for one in results), "checks": [one.to_json() for one in results]})
    code = next((one.exit_code for one in results if not one.ok), 0)
    if code:
        raise typer.Exit(code)


@app.command("requeue")
def requeue(
    key: Annotated[str, typer.Argument(help="The series, as the status shows it: 32 hexadecimal digits.")],
    config: Config,
    json: Json = False,
) -> None:
    """Try a series in quarantine, or a dead delivery, again."""
    with _custody(_load(config)) as custody:
        state = custody.requeue(key)
    if json:
        console.print_json({"key": key, "state": state.value})
    else:
        console.say(f"{key} is {state.value}; the node goes on with it when it runs")


def _load(config: Path) -> NodeConfig:
    from medattn_edge.scanner.config.load import load_config

    _require()
    return load_config(config)


def _require() -> None:
    """Say which extra is missing before anything is made."""
    from importlib.util import find_spec

    for package in ("pydicom", "highdicom", "pynetdicom", "jinja2"):
        if find_spec(package) is None:
            raise MissingDependency.of_extra(package, "node")


def _running(config: NodeConfig) -> dict[str, Any] | None:
    """What the node says of itself; None when nobody answers."""
    import http.client
    import json
    import urllib.request

    from medattn_edge.scanner.store.outside import site_of

    if config.status is None or config.status.port == 0:
        return None
    host = f"[{config.status.host}]" if ":" in config.status.host else config.status.host
    # No proxy: the address is this machine's.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{host}:{config.status.port}/status.json", timeout=5) as answer:
            found = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException):
        return None
    # Another node may have this port: what it says is not about this root.
    return found if isinstance(found, dict) and found.get("site") == site_of(config.root).fingerprint else None


def _silent(config: NodeConfig) -> dict[str, Any]:
    """What the database of a node says that does not answer, or does not run."""
    from medattn_edge.scanner.observe.server import document
    from medattn_edge.scanner.store.outside import is_held, snapshot_of

    status = document(snapshot_of(config.root), None)
    return {**status, "running": True, "why": "no_answer"} if is_held(config.root) else status


def _custody(config: NodeConfig) -> AbstractContextManager[Custody]:
    """The files and rows of a node that has run, to change them; it may run meanwhile."""
    from medattn_edge.scanner.store.custody import open_custody
    from medattn_edge.scanner.store.outside import check_has_run

    check_has_run(config.root)
    return open_custody(config.root, config.policy())


def _make_folders(config: NodeConfig) -> None:
    """The folders of the example, so that it works at once."""
    folders = [config.watch.folder] if config.watch is not None else []
    for folder in (*folders, *(one.folder for one in config.destinations if one.folder is not None)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot make the folder {folder}: {error.strerror}",
                expected="permission to write, and no file of that name",
                hint=f"ls -ld {quoted(folder)} {quoted(folder.parent)}",
            ) from error
