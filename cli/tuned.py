"""What compile --tune does, and what it shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medattn_edge.errors import MissingDependency, UsageError, quoted

from . import console

if TYPE_CHECKING:
    from medattn_edge.artifact import Artifact
    from medattn_edge.backends.compiler import Compiler, CompileSettings
    from medattn_edge.compile.graphs import Graphs


@dataclass(frozen=True)
class TuneOptions:
    """The options that only --tune follows, and those of the check, as they were typed.

    Attributes:
        patch: of a checkpoint.
        batch: of a checkpoint.
        scans: real input for the check.
        samples: patches of each scan.
        duration_s: after it no other alternative is begun.
    """

    patch: str
    batch: str
    scans: list[Path]
    samples: int | None
    duration_s: float | None


def tuned(source: Path, output: Path, target: str | None, settings: CompileSettings, options: TuneOptions) -> Artifact:
    """The fastest alternative of a checkpoint, or of a file, written; raises what `tuning.tune` raises."""
    from medattn_edge.compile import tuning
    from medattn_edge.compile.compilation import compiler_for
    from medattn_edge.inference.real_patches import real_patches

    compiler = compiler_for(output, target, settings)
    if ".onnx" not in compiler.sources:
        raise UsageError(
            f"--tune for {compiler.name}, which compiles the checkpoint as it is",
            expected="a target that compiles ONNX files",
            hint="leave --tune out",
        )
    graphs, reduced = _graphs(source, output, compiler, options)
    reduced = reduced or settings.inference_precision != "f32"
    real = real_patches(graphs.spec, options.scans, options.samples or (8 if reduced else 2))
    console.note(f"tuning {source} for {compiler.name}: {1 + len(graphs.optional)} choices of rewrites, and threads")
    seconds = tuning.DURATION_S if options.duration_s is None else options.duration_s
    with console.timed("tuned, compiled and checked"), console.stages() as progress:
        return tuning.tune(graphs, output, compiler, settings, real, seconds, progress)


def _graphs(source: Path, output: Path, compiler: Compiler, options: TuneOptions) -> tuple[Graphs, bool]:
    """What to choose from, and whether it is in a reduced precision."""
    from medattn_edge.backends import backend_of
    from medattn_edge.compile.graphs import GivenGraph, RewrittenGraphs

    if source.suffix.lower() in compiler.sources:
        for option, value in (("--patch", options.patch), ("--batch", options.batch)):
            if value:
                raise UsageError(f"{option} for {source.name}", expected="a checkpoint", hint=f"leave {option} out")
        console.note(
            f"{source.name} is a graph already: only settings of the runtime are tried. Rewrites need the checkpoint: "
            f"medattn-edge compile CHECKPOINT -o {quoted(output)} --tune"
        )
        given = GivenGraph(source)
        return given, given.precision != "fp32"
    if backend_of(source).name != "eager":
        raise UsageError(
            f"{compiler.name} does not compile {source.name}",
            expected=f"a checkpoint, or a file that ends in {', '.join(compiler.sources)}",
            hint=f"medattn-edge compile CHECKPOINT -o {quoted(output.name)} --tune",
        )
    try:
        from medattn_edge.exporters import ExportSettings
        from medattn_edge.models import checkpoint as checkpoints
    except ImportError as error:
        raise MissingDependency.of_extra(str(error.name), "export") from error
    from .export import batch_of
    from .spec_options import SpecOptions, note_spec_assumptions, with_spec_options

    loaded = with_spec_options(checkpoints.load(source), SpecOptions({"--patch": options.patch}))
    note_spec_assumptions(loaded)
    loaded.network.check_shape(loaded.spec.patch)
    settings = ExportSettings(batch_of(options.batch or "1"))
    return RewrittenGraphs(loaded, compiler.name, settings), False


def show_tuning(record: dict[str, Any]) -> None:
    """What was tried, how fast it was, and what was chosen."""
    from rich.table import Table

    table = Table(title=f"tuned on {record['host']['cpu']}")
    table.caption = "speed: the default's time over this one's, median of paired runs (quartiles)"
    for heading in ("alternative", "outcome", "speed", "SQNR dB"):
        table.add_column(heading, no_wrap=True, justify="right" if heading == "SQNR dB" else "left")
    for row in record["alternatives"]:
        speed = "" if row["ratio"] is None else "{:.3f} ({:.3f} - {:.3f})".format(row["ratio"], *row["quartiles"])
        speed = "declined" if row.get("ratio_declined") else speed
        sqnr = "" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
        table.add_row(row["name"], row["outcome"], speed, sqnr)
    console.show(table)
    unmeasured = [row for row in record["alternatives"] if row["outcome"] in ("refused", "untried")]
    for reason in dict.fromkeys(row["reason"] for row in unmeasured):
        names = ", ".join(row["name"] for row in unmeasured if row["reason"] == reason)
        console.say(f"not measured: {names}: {reason}")
    console.say(f"chosen: {', '.join(record['chosen'])}; {record['threads'] or 'all'} threads")
    busy = [row for row in record["alternatives"] if row.get("ratio_declined")]
    if busy:
        console.say(
            f"the choice rests on times of a busy host: {busy[0]['ratio_declined']}, {len(busy)} of "
            f"{len(record['alternatives'])} alternatives\n  next: tune again when nothing else runs here"
        )
    if record["command"]:
        console.say(f"the same graph: {record['command']}")
