"""train: scans + labels -> checkpoint."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medattn_edge.errors import MissingDependency, UsageError, quoted
from medattn_edge.spec import Intensity, modalities_of

from . import console
from .label_audit_text import note_label_audits
from .options import (
    GeometryOption,
    ThreadsOption,
    VolumeOption,
    note_scans,
    orientation_of,
    parse_settings,
    parse_sizes,
    parse_spacing,
)
from .spec_options import SpecOptions, changes_of

if TYPE_CHECKING:
    from medattn_edge.training import Epoch, LabelAmount, Result

Option = typer.Option


def command(  # noqa: PLR0913
    pairs: Annotated[list[Path], typer.Argument(metavar="SCAN LABELS ...", help="Scans, each with its labels.")],
    output: Annotated[Path, Option("--output", "-o", help="The checkpoint to write: NAME.safetensors.")],
    network: Annotated[str, Option("--network", help="For example attention-unet-2d, attention-unet-3d, self-guided.")],
    label: Annotated[
        list[str], Option("--label", metavar="INDEX=NAME[:VALUE[,VALUE...]]", help="What to learn; repeat it.")
    ],
    set_: Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help="A setting of the network.")] = None,
    patch: Annotated[str, Option("--patch", metavar="[Dx]HxW", help="Voxels; the network's usual by default.")] = "",
    spacing: Annotated[
        str, Option("--spacing", metavar="[Zx]YxX", help="mm, or none: as scanned; the scans' median by default.")
    ] = "",
    orientation: Annotated[
        str, Option("--orientation", metavar="RAS", help="Where W, H and D of what it sees run to; LPS by default.")
    ] = "",
    plane: Annotated[str, Option("--plane", help="Slices of a 2-D network: axial, coronal or sagittal.")] = "",
    intensity: Annotated[
        str, Option("--intensity", help="window:LOW:HIGH, zscore[:slice], minmax[:slice] or none.")
    ] = "",
    after: Annotated[
        list[str] | None,
        Option("--after", metavar="largest:LABEL", help="Clean labels: also drop-below:NAME:ML, fill-holes:NAME."),
    ] = None,
    modality: Annotated[str, Option("--modality", metavar="CT", help="DICOM's name of what the scans are.")] = "",
    body_part: Annotated[str, Option("--body-part", help="As DICOM's BodyPartExamined says it.")] = "",
    channels: Annotated[
        str, Option("--channels", metavar="t1,t2,...", help="Names of the scans' channels, in order.")
    ] = "",
    geometry: GeometryOption = None,
    volume_number: VolumeOption = 0,
    epochs: Annotated[int, Option("--epochs", help="Each ends with the held-out Dice.")] = 40,
    steps: Annotated[int, Option("--steps", help="Per epoch.")] = 25,
    batch: Annotated[int, Option("--batch", help="Patches per step.")] = 8,
    learning_rate: Annotated[float, Option("--learning-rate", help="Of the first step; decays to a hundredth.")] = 1e-3,
    holdout: Annotated[float, Option("--holdout", help="The fraction of slices or scans to judge with.")] = 0.2,
    blocks: Annotated[int, Option("--blocks", help="Blocks of slices that a scan is cut into.")] = 10,
    seed: Annotated[int, Option("--seed", help="Of weights, patches and augmentation.")] = 0,
    frozen_norms: Annotated[
        float, Option("--frozen-norms", help="Share of the steps, the last ones, with BatchNorm as it is deployed.")
    ] = 0.0,
    device: Annotated[str, Option("--device", help="cpu or cuda:INDEX.")] = "cpu",
    threads: ThreadsOption = 0,
    resume: Annotated[
        bool,
        Option("--resume", help="Go on after an interruption, or with more --epochs than a finished training had."),
    ] = False,
    backbone_weights: Annotated[
        Path | None, Option("--backbone-weights", help="A torchvision checkpoint to start the backbone from.")
    ] = None,
    json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Train a network on scans and their labels; the best checkpoint by held-out Dice is written.

    Slices in blocks, or whole scans when there are 5 or more, are held out. An existing file at -o is replaced when the
    first epoch is done. After Ctrl-C, the same command with --resume goes on; after the end, the same with --resume and
    more --epochs: OUTPUT.resume stays for that, and can be deleted.
    """
    # What can be judged without torch is judged at once.
    files, config = _pairs(pairs, output), parse_settings(set_ or [])
    sizes = parse_sizes(patch) if patch else None
    mm = () if spacing == "none" else parse_spacing(spacing) if spacing else None
    how = Intensity.parse(intensity) if intensity else None
    code = orientation_of(orientation, plane)
    try:
        import torch
    except ImportError as error:
        raise MissingDependency.of_extra("torch", "train") from error
    from medattn_edge import training
    from medattn_edge.host.cores import usable_cores
    from medattn_edge.io import Scan

    settings = training.TrainingSettings(
        epochs, steps, batch, learning_rate, holdout, blocks, seed, frozen_norms, device
    )
    labels = training.check_labels([training.Label.parse(text) for text in label])
    torch.set_num_threads(threads or usable_cores())
    scans = [Scan(path, geometry=geometry or "", volume=volume_number) for path, _ in files]
    cases = training.read_cases([(scan, truth) for scan, (_, truth) in zip(scans, files, strict=True)], labels)
    note_scans(scans)
    audits = [case.audit.to_json() for case in cases if case.audit is not None]
    note_label_audits(audits)
    wishes = training.Wishes(network, config, sizes, mm, how, code, "+".join(modalities_of(modality)))
    spec, remarks = training.choose_spec(cases, labels, wishes)
    for remark in remarks:
        console.note(remark)
    facts = SpecOptions({"--body-part": body_part, "--channels": channels}, after or [])
    spec = replace(spec, **changes_of(facts, spec))
    if plane and spec.dims != 2:
        raise UsageError("--plane for a 3-D network", expected="a 2-D network", hint="--orientation RAS")
    console.note(f"orientation {spec.orientation}{f': {spec.plane} slices' if spec.plane else ''}")
    first = training.initial_network(spec, seed, backbone_weights)
    named = [*pairs, output, *([backbone_weights] if backbone_weights else [])]
    target = training.Output(output, {"command": _typed(sys.argv[1:], named)}, resume)
    try:
        with console.progress("training") as progress:
            watch = training.Watch(progress, _report, console.note, _note_labels)
            result = training.fit(first, cases, spec, settings, target, watch)
    except KeyboardInterrupt:
        left = training.resume_path(output)
        if left.is_file() and (resume or not training.is_finished(left)):
            console.note(f"{output} is the best so far; the same command with --resume goes on", level=0)
        else:
            console.note("nothing to resume yet: the same command starts afresh", level=0)
        raise
    if json:
        console.print_json({"checkpoint": str(output), "notes": dict(result.notes), "label_audits": audits})
    else:
        _show(result)
    for name in result.notes["labels_without_overlap"]:
        console.note(
            f"{name} ends at a held-out Dice of 0: the network finds no voxel of it where it is; look at its labels, "
            f"or train longer: the same command with --resume --epochs {2 * epochs}",
            level=0,
        )
    left = training.resume_path(output)
    console.note(
        f"{left.name} ({left.stat().st_size / 1e6:.1f} MB) stays: --resume --epochs {2 * epochs} goes on from it"
    )


def _pairs(paths: list[Path], output: Path) -> list[tuple[Path, Path]]:
    if len(paths) % 2:
        raise UsageError(
            f"{len(paths)} files: {paths[-1]} has no labels",
            expected="a labels file after every scan",
            hint="medattn-edge train SCAN LABELS SCAN LABELS ... -o NAME.safetensors",
        )
    if output.suffix != ".safetensors":
        raise UsageError(
            f"the output {output}",
            expected="a file named NAME.safetensors",
            hint=f"-o {quoted(output.stem + '.safetensors')}",
        )
    return list(zip(paths[::2], paths[1::2], strict=True))


def _typed(arguments: Sequence[str], files: list[Path]) -> str:
    """The command for the checkpoint's notes: files without their folders, which may name people, and no --resume."""

    def bare(argument: str) -> str:
        for prefix in ("", "-o", "--output=", "--backbone-weights="):
            value = argument.removeprefix(prefix)
            if argument.startswith(prefix) and Path(value) in files:
                return prefix + Path(value).name
        return argument

    return shlex.join(["medattn-edge", *(bare(argument) for argument in arguments if argument != "--resume")])


def _report(epoch: Epoch) -> None:
    from medattn_edge.training import duration

    dice = ", ".join(f"{name} {value:.4f}" for name, value in epoch.score.held_out.items())
    best = "  best so far" if epoch.best else ""
    left = f", about {duration(epoch.remaining_s)} left" if epoch.remaining_s else ""
    took = f"{duration(epoch.seconds)}{left}"
    console.note(f"epoch {epoch.number}: loss {epoch.loss:.4f}, held-out Dice {dice}{best}  ({took})")


def _note_labels(amounts: Sequence[LabelAmount]) -> None:
    """A line for each label of all scans together: what there is to learn from and to judge with."""
    console.note(
        f"{'label':>5}  {'voxels':>12}  {'ml':>10}  {'training':>12}  {'held out':>12}  {'scans':>5}  name (values)"
    )
    for one in amounts:
        volume = "-" if one.millilitres is None else f"{one.millilitres:,.1f}"
        values = f" ({', '.join(map(str, one.values))})" if one.values else ""
        console.note(
            f"{one.index:>5}  {one.voxels:>12,}  {volume:>10}  {one.training_voxels:>12,}  {one.held_out_voxels:>12,}  "
            f"{one.scans:>5}  {one.name}{values}"
        )


def _show(result: Result) -> None:
    from rich.table import Table

    score = result.score
    table = Table("label", "held-out Dice", "training Dice", "ml", title=f"epoch {result.notes['best_epoch']}")
    for name, dice in score.held_out.items():
        volume = score.millilitres.get(name)
        learnt = f"{score.training[name]:.4f}" if name in score.training else "-"
        table.add_row(name, f"{dice:.4f}", learnt, "-" if volume is None else f"{volume:.1f}")
    console.show(table)
    console.say(f"{result.path}: {result.notes['subjects']} subject(s), {result.notes['seconds']:.0f} s")
    console.note(f"next: medattn-edge export {quoted(result.path)} -o {quoted(result.path.stem + '.onnx')}")
