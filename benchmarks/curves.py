"""Scaling: time and memory of our runtimes and of eager against patch, depth, classes, batch and threads.

    python benchmarks/curves.py [NAME...] [--duration 3] [-o benchmarks/results]

Every point is a run of its own like those of `suite.py`, its rows interleaved and each beside its agreement. Ratios
hold within a point; how two points compare is only as good as the machine was quiet.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from cases import OURS, REFERENCE, Case, by_sqnr
from suite import FOLDER, RESULTS, run, write

from medattn_edge.evaluation import BenchSettings
from medattn_edge.host.cores import usable_cores

_INT8_DB = 25.0  # of networks that have learnt nothing: enough to see a broken graph, which is all there is to judge
_SHOWN = ("fused.onnx", "fused.xml", "int8.xml")
FORMS = tuple(form for form in OURS if form.name in _SHOWN)


class Point(NamedTuple):
    """One place on the horizontal axis. threads: 0 for one per core."""

    x: str
    case: Case
    threads: int = 0


class Curve(NamedTuple):
    """name: of the result. x: what the axis is called."""

    name: str
    title: str
    x: str
    points: tuple[Point, ...]


def _case(name: str, network: str, classes: int, patch: tuple[int, ...], **settings: Any) -> Case:
    case = Case(name, network, "", 1, classes, patch, by_sqnr(_INT8_DB), settings)
    return case._replace(initial=True, calibration=4, held_out=2)


def _flat(width: int, classes: int, size: int) -> Case:
    return _case(f"unet-2d-{width}-{classes}-{size}", "attention-unet-2d", classes, (size, size), width=width)


def _guided(backbone: str, size: int) -> Case:
    return _case(f"self-guided-{backbone}-{size}", "self-guided", 4, (size, size), backbone=backbone)


def _deep(size: int) -> Case:
    return _case(f"unet-3d-{size}", "attention-unet-3d", 4, (size, size, size), gates="multi")


def thread_counts(cores: int = 0) -> tuple[int, ...]:
    """1, 2, 3, 4, 6, 8, 12, 16, ... up to the cores that this process may use, and all of them."""
    cores = cores or usable_cores()
    steps = {count for power in range(8) for count in (2**power, 3 * 2**power) if count < cores}
    return (*sorted(steps), cores)


CURVES = (
    Curve(
        "curve-patch-attention-unet-2d",
        "2-D Attention U-Net, width 32, against the patch",
        "patch",
        tuple(Point(f"{size}x{size}", _flat(32, 4, size)) for size in (64, 128, 256, 384, 512)),
    ),
    Curve(
        "curve-patch-self-guided",
        "Self-guided attention, ResNet-18, against the patch",
        "patch",
        tuple(Point(f"{size}x{size}", _guided("resnet18", size)) for size in (64, 128, 256, 384, 512)),
    ),
    Curve(
        "curve-patch-attention-unet-3d",
        "3-D Attention U-Net, against the patch",
        "patch",
        tuple(Point(f"{size}^3", _deep(size)) for size in (32, 64, 96, 128)),
    ),
    Curve(
        "curve-depth-self-guided",
        "Self-guided attention at 128x128, against its backbone",
        "backbone",
        tuple(Point(name, _guided(name, 128)) for name in ("resnet18", "resnet50", "resnext50_32x4d")),
    ),
    Curve(
        "curve-classes-attention-unet-2d",
        "2-D Attention U-Net, width 32, 128x128, against the classes",
        "classes",
        tuple(Point(str(count), _flat(32, count, 128)) for count in (2, 4, 8, 16, 32, 64)),
    ),
    Curve(
        "curve-batch-attention-unet-2d",
        "2-D Attention U-Net, width 32, 128x128, against the batch",
        "patches per run",
        tuple(Point(str(count), _flat(32, 4, 128)._replace(batch=count, held_out=8)) for count in (1, 2, 4, 8)),
    ),
    Curve(
        "curve-threads-attention-unet-2d",
        "2-D Attention U-Net, width 32, 256x256, against the threads",
        "threads",
        tuple(Point(str(count), _flat(32, 4, 256), count) for count in thread_counts()),
    ),
)


def main(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="By default all.")] = None,
    duration: Annotated[float, typer.Option(help="Seconds for each row of a point.")] = 3.0,
    folder: Annotated[Path, typer.Option(help="Where the files that are made are kept.")] = FOLDER,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = RESULTS,
) -> None:
    """Measure curves."""
    known = {curve.name: curve for curve in CURVES}
    unknown = sorted(set(names or []) - set(known))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)} is no curve; expected some of {', '.join(known)}")
    for name in names or known:
        write(measured(known[name], duration, folder), output / f"{name}.json")


def measured(curve: Curve, duration: float, folder: Path) -> dict[str, Any]:
    """The result of one curve: the rows of all points, each with its `x`; the environment is that of the last one."""
    rows, absent, document = list[dict[str, Any]](), dict[str, str](), dict[str, Any]()
    for point in curve.points:
        settings = replace(BenchSettings(duration_s=duration, timeout_s=1800), threads=point.threads)
        document = run(point.case, FORMS, settings, folder)
        rows += [{"x": point.x, **row} for row in document["rows"]]
        absent |= {f"{row} at {point.x}": why for row, why in document["absent"].items()}
    told = {"title": curve.title, "x": curve.x, "reference": REFERENCE.name}
    return {"curve": told, "environment": document["environment"], "rows": rows, "absent": absent}


if __name__ == "__main__":
    typer.run(main)
