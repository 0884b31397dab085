"""bench: how fast artifacts are on this host, each beside how well it agrees with its checkpoint."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medattn_edge.errors import InputError, UsageError

from . import console
from .bench_text import announce, tell
from .samples import real_patches

if TYPE_CHECKING:
    from medattn_edge.artifact import Artifact
    from medattn_edge.evaluation import Candidate
    from medattn_edge.spec import ModelSpec

Option = typer.Option


def command(  # noqa: PLR0913
    artifacts: Annotated[list[Path], typer.Argument(metavar="ARTIFACT ...", help="What was made of the reference.")],
    reference: Annotated[
        Path, Option("--reference", metavar="CHECKPOINT", help="Eager FP32; without torch, an FP32 artifact.")
    ],
    scan: Annotated[list[Path] | None, Option("--scan", help="Real input to judge on; repeat it.")] = None,
    samples: Annotated[int, Option("--samples", min=1, help="Patches per scan.")] = 4,
    duration: Annotated[float, Option("--duration", min=0, help="Of the timing, in s for each row.")] = 10.0,
    warm_up: Annotated[float, Option("--warm-up", min=0, help="Before it, in s for each row.")] = 1.0,
    threads: Annotated[
        int, Option("--threads", min=0, help="Of the CPU; 0 is one for each core that this process may use.")
    ] = 0,
    batch: Annotated[int, Option("--batch", min=1, help="Patches per run.")] = 1,
    deadline_ms: Annotated[
        float | None, Option("--deadline-ms", metavar="MS", help="Tell how many runs take longer.")
    ] = None,
    runtime: Annotated[
        list[str] | None,
        Option(
            "--runtime",
            metavar="NAME",
            help="Of .onnx artifacts; repeat it, or all. By default all for int8 and fp16, the usual one for fp32.",
        ),
    ] = None,
    device: Annotated[str, Option("--device", help="Of the artifacts: cpu or cuda:INDEX.")] = "cpu",
    min_dice: Annotated[
        float, Option("--min-dice", min=0, max=1, help="Of fp16 and int8: with the reference, every label.")
    ] = 0.999,
    min_sqnr_db: Annotated[float, Option("--min-sqnr-db", help="Of fp16 and int8: of the logits.")] = 30.0,
    min_fp32_sqnr_db: Annotated[float | None, Option("--min-fp32-sqnr-db", help="Of fp32; 90.")] = None,
    time_limit: Annotated[float, Option("--time-limit", min=1, help="Of opening, and of one run, in s.")] = 600.0,
    output: Annotated[Path | None, Option("--output", "-o", metavar="FILE", help="Write the JSON there too.")] = None,
    json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Time artifacts and their reference in turn, each in a process of its own.

    Every row is first held to the reference on real input (--scan, or the CT that slicerio ships) and on noise. One
    that does not agree, crashes or hangs says FAIL and has no speed, and the exit code is 1.
    """
    from medattn_edge.atomic import check_folder, replacing
    from medattn_edge.evaluation import Settings, measure

    if output is not None:
        check_folder(output)
    files = _read(artifacts, reference, batch, runtime or [])
    spec = files[0].spec
    below = {"min_sqnr_db": min_sqnr_db, "min_dice": min_dice}
    exact = {} if min_fp32_sqnr_db is None else {"min_sqnr_db": min_fp32_sqnr_db}
    first = _reference(reference, files)
    rows, left_out = _candidates(files, runtime or [], device, (exact, below))
    settings = Settings(duration, warm_up, threads, deadline_ms, time_limit, batch).explicit()
    real = real_patches(spec, scan or [], max(samples, batch))
    announce(settings, [first, *rows])
    with console.stages() as progress:
        report = measure(first, rows, real, settings, progress)
    document = {"reference": str(reference), "samples": list(real), **report.to_json()}
    document["left_out"] = {**left_out, **document["left_out"]}
    if output is not None:
        with replacing(output) as file:
            file.write_text(json_module.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if json:
        console.print_json(document)
    else:
        tell(document)
    if not report.passed:
        raise typer.Exit(1)


def _read(paths: list[Path], reference: Path, batch: int, runtime: list[str]) -> list[Artifact]:
    """The artifacts, when all of them were made from the reference and take the same input."""
    from medattn_edge.artifact import Artifact, sha256
    from medattn_edge.backends import backend_of

    if not reference.is_file():
        raise InputError(f"{reference} does not exist", expected="a checkpoint", hint=f"ls '{reference.parent}'")
    if len(set(paths)) != len(paths):
        raise UsageError("an artifact comes twice", expected="each file once", hint="leave it out the second time")
    if runtime and not any(path.suffix.lower() == ".onnx" for path in paths):
        raise UsageError(
            f"--runtime {runtime[0]} for {paths[0].name}",
            expected="an .onnx artifact: any other is run by what it was made for",
            hint="leave --runtime out",
        )
    digest, found = sha256(reference), list[Artifact]()
    for path in paths:
        if backend_of(path).name == "eager":
            raise UsageError(
                f"{path.name} is a checkpoint",
                expected="artifacts, and the checkpoint as --reference",
                hint=f"medattn-edge export {path} -o {path.stem}.onnx",
            )
        found.append(Artifact.read(path))
        _check_made_from(found[-1], reference, digest)
        _check_alike(found[-1], found[0], batch)
    return found


def _check_made_from(artifact: Artifact, reference: Path, digest: str) -> None:
    if digest not in (*artifact.manifest.lineage, artifact.manifest.sha256):
        raise UsageError(
            f"{artifact.path.name} was not made from {reference.name}, but from a file with the SHA-256 "
            f"{artifact.manifest.lineage[0][:16]}...",
            expected="artifacts of one checkpoint, with that checkpoint as --reference",
            hint=f"medattn-edge export {reference} -o NAME.onnx, or --reference THE_OTHER_CHECKPOINT",
        )


def _check_alike(one: Artifact, first: Artifact, batch: int) -> None:
    fixed = one.manifest.batch
    if fixed not in (None, batch):
        raise UsageError(
            f"{one.path.name} runs {fixed} patches at once, and {batch} are asked for",
            expected="the batch that it was exported with",
            hint=f"--batch {fixed}",
        )
    if one.spec != first.spec:
        sizes = ["x".join(map(str, each.spec.patch)) for each in (first, one)]
        raise UsageError(
            f"{first.path.name} ({sizes[0]}) and {one.path.name} ({sizes[1]}) expect other input",
            expected="artifacts that were exported with the same settings",
            hint=f"medattn-edge bench {first.path}, and {one.path} by itself",
        )


def _reference(path: Path, files: list[Artifact]) -> Candidate:
    """Under the settings that the artifacts were exported with: the checkpoint may say less, or another patch."""
    from medattn_edge.artifact import Artifact
    from medattn_edge.backends import backend_of
    from medattn_edge.backends.runtimes import Runtime
    from medattn_edge.evaluation import Candidate, gate_of

    spec, backend = files[0].spec, backend_of(path).name
    runtime, gate = Runtime(backend, backend), gate_of("fp32", "cpu")
    if backend == "eager":
        return Candidate(path.name, path, runtime, spec.network, "fp32", gate, _gflop(path, spec), spec=spec)
    manifest = Artifact.read(path).manifest
    if manifest.precision != "fp32":
        raise UsageError(
            f"{path.name} as a reference is {manifest.precision}",
            expected="an FP32 artifact, or the checkpoint",
            hint="--reference CHECKPOINT",
        )
    console.note(f"the reference is {path.name}, an artifact, and not the eager network")
    return Candidate(path.name, path, runtime, spec.network, "fp32", gate, manifest.gflop)


def _gflop(path: Path, spec: ModelSpec) -> float:
    from medattn_edge.models import checkpoint
    from medattn_edge.models.flops import gflop

    return gflop(checkpoint.load(path, config=spec.config).network, spec)


def _candidates(
    files: list[Artifact], asked: list[str], device: str, floors: tuple[dict[str, float], dict[str, float]]
) -> tuple[list[Candidate], dict[str, str]]:
    """Every artifact in every runtime chosen for it, and which runtimes are left out for which reason.

    floors: what is asked of FP32, and of less.
    """
    from medattn_edge.backends.runtimes import ALL, choose
    from medattn_edge.evaluation import Candidate, computed_as, gate_of

    found, left_out = list[Candidate](), dict[str, str]()
    by_us = not asked or ALL in asked
    for artifact in files:
        manifest = artifact.manifest
        runtimes, absent = choose(artifact.path, manifest.precision, asked, device)
        left_out |= absent
        wanted = floors[manifest.precision != "fp32"]
        for one in runtimes:
            precision, gate = computed_as(manifest.precision, one), gate_of(manifest.precision, one.device, wanted)
            candidate = Candidate(
                name=artifact.path.name,
                path=artifact.path,
                runtime=one,
                network=manifest.spec.network,
                precision=precision,
                gate=gate,
                gflop=float(manifest.gflop),
                stored=manifest.precision,
                # ONNX Runtime names providers whose libraries are missing; nobody asked for this one by name.
                optional=by_us and bool(one.provider),
            )
            found.append(candidate)
    return found, left_out
