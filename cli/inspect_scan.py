"""inspect, on a scan: its grid, its type and its values, as the network would be given them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import console

if TYPE_CHECKING:
    from medattn_edge.io import Scan


def is_scan(path: Path) -> bool:
    """Whether a file's name says that it is a scan, of one of the formats that are read by their names."""
    from medattn_edge.io import formats

    return any(path.name.lower().endswith(suffix) for form in formats() for suffix in form.suffixes)


def show_scan(scan: Scan, json: bool) -> None:
    """Print what a scan is; raises what `Scan.read` raises."""
    facts = _facts(scan)
    if json:
        console.print_json(facts)
    else:
        _show(scan, facts)


def _facts(scan: Scan) -> dict[str, Any]:
    import numpy as np

    from medattn_edge.io import format_of
    from medattn_edge.io.scan import facts_of_grid

    volume = scan.read()
    voxels = volume.voxels
    finite = voxels if voxels.dtype.kind != "f" else voxels[np.isfinite(voxels)]
    known = volume.calibrated
    return {
        "scan": str(scan.path),
        "name": scan.name,
        "format": format_of(scan.path).name,
        "channels": volume.channels,
        "shape": list(volume.shape),
        "spacing_mm": [round(step, 6) for step in volume.spacing] if known else None,
        "orientation": volume.orientation if known else None,
        "oblique_degrees": round(volume.oblique_degrees, 2) if known else None,
        "origin_mm": [round(float(value), 4) + 0.0 for value in volume.affine[:3, 3]] if known else None,
        "type": str(voxels.dtype),
        "minimum": finite.min().item() if finite.size else None,
        "maximum": finite.max().item() if finite.size else None,
        "not_finite": int(voxels.size - finite.size),
        "geometry": facts_of_grid(volume),
        "notes": list(scan.notes()),
    }


def _show(scan: Scan, facts: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=str(scan.path), show_header=False)
    several = f", {facts['channels']} channels" if facts["channels"] > 1 else ""
    rows = {"format": facts["format"], "voxels (D, H, W)": _joined(facts["shape"], "x") + several}
    if facts["spacing_mm"] is None:
        rows["place"] = "none: no voxel spacing and no side of the patient (infer --pixel-spacing YxX)"
    else:
        tilt = f", oblique by {facts['oblique_degrees']:g} degrees" if facts["oblique_degrees"] >= 0.05 else ""
        rows["spacing (D, H, W)"] = f"{_joined(facts['spacing_mm'], 'x')} mm"
        rows["orientation"] = f"{facts['orientation']}: where W, H and D run to{tilt}"
        rows["first voxel (L, P, S)"] = f"{_joined(facts['origin_mm'], ', ')} mm"
    values = "none is finite" if facts["minimum"] is None else f"{facts['minimum']:g} to {facts['maximum']:g}"
    broken = f", {facts['not_finite']} not finite" if facts["not_finite"] else ""
    rows["values"] = f"{facts['type']}, {values}{broken}"
    if facts["geometry"]:
        codes = ", ".join(f"{form} code {code}" for form, code in facts["geometry"]["codes"].items())
        rows["placed by"] = f"its {facts['geometry']['geometry']} ({codes})"
    for name, value in rows.items():
        table.add_row(name, value)
    console.show(table)
    for note in facts["notes"]:
        console.say(f"note: {note}")


def _joined(values: list[float], between: str) -> str:
    return between.join(f"{value:.6g}" for value in values)
