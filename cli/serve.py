"""serve: artifacts on a Triton server: write, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from medattn_edge.errors import MedattnError, UsageError, quoted

from . import console

Option = typer.Option

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    help="Artifacts on a Triton server, for few GPUs that many hosts share.",
)


@app.command("write", no_args_is_help=True)
def write(  # noqa: PLR0913 - one for each option
    artifacts: Annotated[
        list[Path], typer.Argument(metavar="ARTIFACT...", help="What export, calibrate and compile wrote.")
    ],
    output: Annotated[Path, Option("--output", "-o", metavar="DIR", help="Nothing may be there yet.")],
    engine: Annotated[
        Literal["python", "native"],
        Option(
            "--engine", help="Triton's Python backend, which runs every artifact; or its own for ONNX, IR, engines."
        ),
    ] = "python",
    max_batch: Annotated[
        int, Option("--max-batch", min=0, help="Patches of several requests in one run; native only; 0: no such.")
    ] = 0,
    delay_ms: Annotated[
        float, Option("--delay-ms", min=0.0, help="How long a request may wait for others; native only.")
    ] = 0.0,
    instances: Annotated[int, Option("--instances", min=1, help="Of each model.")] = 1,
    threads: Annotated[int, Option("--threads", min=0, help="Of each instance; 0 leaves it to the runtime.")] = 0,
    address: Annotated[
        str, Option("--address", metavar="HOST:PORT", help="Of the server's gRPC, as its clients reach it.")
    ] = "127.0.0.1:8001",
    ca: Annotated[
        Path | None, Option("--ca", metavar="FILE.pem", help="Authority of the server's certificate; turns TLS on.")
    ] = None,
    unencrypted: Annotated[bool, Option("--unencrypted", help="Images may go to another host without TLS.")] = False,
    shared_memory: Annotated[
        bool,
        Option("--shared-memory", help="Patches and answers go through this host's memory; the server is here."),
    ] = False,
    json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Write Triton's model repository, and in it a NAME.triton for each artifact, which opens like an artifact."""
    from medattn_edge.serving import NativeSettings, write_repository

    if engine == "python" and (max_batch or delay_ms):
        raise UsageError(
            "--max-batch or --delay-ms for Triton's Python backend",
            expected="these with --engine native: the Python backend runs every request by itself",
            hint="--engine native, or leave them out",
        )
    served = write_repository(
        artifacts,
        output,
        address=address,
        native=NativeSettings(max_batch, delay_ms) if engine == "native" else None,
        instances=instances,
        threads=threads,
        ca="" if ca is None else str(ca.resolve()),
        unencrypted=unencrypted,
        shared_memory=shared_memory,
    )
    if json:
        models = [
            {"name": one.name, "backend": one.backend, "file": str(one.file), "no_canary": one.no_canary}
            for one in served
        ]
        console.print_json({"repository": str(output), "address": address, "models": models})
        return
    for one in served:
        console.say(f"{one.file}: the model {one.name} at {address}, in Triton's backend {one.backend}")
        if one.no_canary:
            console.note(f"{one.file.name} keeps no answer for `serve check`: {one.no_canary}", level=0)
    if engine == "python":
        console.note(
            "assumed: the server's Python has this package and numpy 1.26; a model refuses to start on numpy 2"
        )
    else:
        console.note("assumed: nobody changes the repository; a native backend does not check a model file's hash")
    console.note(f"next: {_command(output, address)}")
    console.note(f"then: medattn-edge serve check {quoted(output)}")


@app.command("check", no_args_is_help=True)
def check(
    path: Annotated[Path, typer.Argument(metavar="REPOSITORY|NAME.triton", help="What `serve write` wrote.")],
    reference: Annotated[
        Path | None,
        Option("--reference", metavar="ARTIFACT", help="Compare with what this artifact answers here and now."),
    ] = None,
    address: Annotated[
        str, Option("--address", metavar="HOST:PORT", help="Ask there; by default what NAME.triton says.")
    ] = "",
    timeout: Annotated[
        float, Option("--timeout", metavar="S", help="Seconds for each request; none is repeated.")
    ] = 10,
    json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Have a server compute each model once and compare its answer with the known one: what a liveness probe calls."""
    from medattn_edge.serving import check_served, failure_json, remote_files

    files = remote_files(path)
    if reference is not None and len(files) > 1:
        raise UsageError(
            f"one --reference for {len(files)} models",
            expected="one model",
            hint=f"medattn-edge serve check {quoted(files[0])} --reference {quoted(reference)}",
        )
    failures, documents = [], []
    for file in files:
        try:
            result = check_served(file, reference=reference, timeout_s=timeout, address=address)
        except MedattnError as error:
            failures.append(error)
            documents.append(failure_json(file, error))
            if not json:
                console.report_on_stderr(f"{file.name}: {error.message}", error.hint)
            continue
        documents.append({"file": str(file), **result.to_json()})
        if not json:
            close = "the same bits" if result.identical else f"logits {result.sqnr_db:.1f} dB"
            console.say(
                f"{file.name}: {result.model} at {result.address} answers as {result.reference}: "
                f"{result.label_match:.2%} of {result.voxels} labels equal, {close}, in {1000 * result.seconds:.0f} ms"
            )
    if json:
        verdict = "fail" if failures else "pass"
        console.print_json({"verdict": verdict, "models": documents})
    if failures:
        raise typer.Exit(failures[0].exit_code)


def _command(output: Path, address: str) -> str:
    """What starts a server on this host that listens to nobody else."""
    port = int(address.rpartition(":")[2])
    loopback = " ".join(f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics"))
    return (
        f"tritonserver --model-repository={quoted(output)} --disable-auto-complete-config --grpc-port={port} {loopback}"
    )
