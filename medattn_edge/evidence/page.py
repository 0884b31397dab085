"""The page: the document of report.json with its pictures, as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from medattn_edge.evidence import format
from medattn_edge.evidence.plots import latency_plot, volume_plot
from medattn_edge.evidence.records import Evidence
from medattn_edge.file_gate import gate_text

if TYPE_CHECKING:
    from jinja2 import Environment

_PLOTS: Final = 6  # of volumes: the widest limits; the table has all
_FILTERS = (
    *(format.number, format.share, format.percent, format.signed, format.decibel, format.milliseconds, format.count),
    *(format.sizes, format.short, format.listed, format.worst),
)


def page_of(evidence: Evidence, document_sha256: str) -> str:
    """The HTML page. Every text of it is escaped; there is no script, and nothing is loaded.

    Args:
        evidence: to show.
        document_sha256: of the JSON document beside the page, which names it.
    """
    from markupsafe import Markup

    document = evidence.to_json()
    latency = document["latency"]
    # Our own style sheet and Matplotlib's SVG, whose texts are escaped by it.
    style = Markup(files(__package__).joinpath("templates/report.css").read_text(encoding="utf-8"))  # noqa: S704
    plots = {
        "latency": Markup(latency_plot(latency["rows"], latency["deadline_ms"], "latency") if latency else ""),  # noqa: S704
        "volumes": [(row, Markup(volume_plot(row, f"volumes-{n}"))) for n, row in _widest(document["volumes"])],  # noqa: S704
    }
    pictures = {
        "overlays": [_inline(one, ("reference", "candidate", "difference")) for one in evidence.overlays],
        "attention": [_inline(one, ("eager", "candidate")) for one in evidence.attention],
    }
    return (
        _environment()
        .get_template("report.html")
        .render(
            style=style,
            report=document,
            document_sha256=document_sha256,
            plots=plots,
            pictures=pictures,
            summary=_summary(document),
            labelled=any(
                one["to_truth"] for case in document["cases"] for run in case["runs"] for one in run["labels"]
            ),
            cases=[{**case, "groups": _groups(case["runs"])} for case in document["cases"]],
        )
        + "\n"
    )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("medattn_edge.evidence")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update({f"as_{one.__name__}": one for one in _FILTERS} | {"as_gate": gate_text})
    return environment


def _inline(record: Any, names: Sequence[str]) -> dict[str, Any]:
    """A record with its PNG pictures as addresses that hold them."""
    drawn = {name: f"data:image/png;base64,{base64.b64encode(getattr(record, name)).decode()}" for name in names}
    return {**record.to_json(), **drawn}


def _widest(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """The agreements of volumes with the widest limits beside their own volume."""

    def width(row: Mapping[str, Any]) -> float:
        mean = sum(row["reference"]) / len(row["reference"])
        return (row["limits"][1] - row["limits"][0]) / mean if mean else float("inf")

    return list(enumerate(sorted(rows, key=width, reverse=True)[:_PLOTS]))


def _groups(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The runs of a case, those together that gave the same labels, by all figures of theirs."""
    groups: list[dict[str, Any]] = []
    for run in runs:
        key = (run["artifact"], run["flips"], run["labels"], run["verdict"], run["failures"])
        same = next((one for one in groups if one["key"] == key), None)
        if same is None:
            groups.append({"key": key, "run": run, "backends": [run["backend"]], "runs": [run]})
        else:
            same["backends"].append(run["backend"])
            same["runs"].append(run)
    return groups


def _summary(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for every artifact in every runtime: the worst figure of all cases and structures."""
    lines = []
    for row in document["runs"]:
        pair = (row["artifact"], row["backend"])
        runs = [run for case in document["cases"] for run in case["runs"] if (run["artifact"], run["backend"]) == pair]
        labels = [one for run in runs for one in run["labels"]]
        surfaces = [one["to_reference"] for one in labels]
        flips = sum(run["flips"] for run in runs)
        lines.append(
            {
                **row,
                "cases": len(runs),
                "sqnr_db": format.worst(run["sqnr_db"] for run in runs),
                "dice": format.worst(one["dice"] for one in labels),
                "true_dice_share": format.worst(one["true_dice_share"] for one in labels),
                "hd95": format.worst((one["hd95"] for one in surfaces), largest=True),
                "surface_dice_1_voxel": format.worst(one["surface_dice_1_voxel"] for one in surfaces),
                "flips": flips,
                "boundary_share": sum(run["boundary_flips"] for run in runs) / flips if flips else None,
            }
        )
    return lines
