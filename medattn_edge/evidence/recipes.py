"""What the artifacts' own manifests say of layers, and of the candidates that lost to them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medattn_edge.artifact import Artifact
from medattn_edge.evidence.records import LayerFigure, RejectedCandidate

_ONLY = "logits, only this layer in INT8"
_FIGURES = {
    "dice": "Dice with the reference",
    "sqnr_db": "SQNR in dB",
    "floating": "layers in FP32",
    "ratio_to_fp32": "times the speed of FP32",
}


def layers_of(artifacts: Sequence[Artifact]) -> tuple[LayerFigure, ...]:
    """The SQNR that `calibrate` measured for layers, worst first, where it had to."""
    return tuple(figure for one in artifacts for figure in _ranking(one.path.name, one.manifest.recipe))


def _ranking(name: str, recipe: Mapping[str, Any]) -> list[LayerFigure]:
    floating = {_layer(layer) for damage in _rows(recipe.get("floating")) for layer in _rows(damage.get("layers"))}
    figures = []
    for damage in _rows(recipe.get("ranking")):
        names, sqnr = [_layer(layer) for layer in _rows(damage.get("layers"))], damage.get("sqnr_db")
        if names and isinstance(sqnr, int | float) and math.isfinite(sqnr):
            precision = "FP32" if set(names) <= floating else "INT8"
            figures.append(LayerFigure(name, ", ".join(names), precision, float(sqnr), _ONLY))
    return figures


def rejected_of(artifacts: Sequence[Artifact]) -> tuple[RejectedCandidate, ...]:
    """What `calibrate` tried by each quantizer, and did not keep."""
    return tuple(lost for one in artifacts for lost in _rejected(one.path.name, one.manifest.recipe))


def _rejected(name: str, recipe: Mapping[str, Any]) -> list[RejectedCandidate]:
    kept, floating = recipe.get("quantizer"), len(_rows(recipe.get("floating")))
    lost = []
    for row in _rows(recipe.get("quantizers")):
        if row.get("quantizer") == kept and (row.get("floating") or 0) == 0 and not floating:
            continue
        plain = {said: row[key] for key, said in _FIGURES.items() if isinstance(row.get(key), int | float)}
        reason = "did not hold the gate on the held-out windows"
        if row.get("holds"):
            timed = row.get("ratio_to_fp32") is not None
            better = "faster" if timed else "nearer to the reference"
            if row.get("ratio_declined"):
                better = f"faster, by times of a busy host ({row['ratio_declined']}),"
            reason = f"held the gate; {kept} was {better} and was kept"
        title = f"{row.get('quantizer')} for {name}" + (", no layer in FP32" if row.get("quantizer") == kept else "")
        lost.append(RejectedCandidate(title, reason, plain))
    return lost


def _rows(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _layer(layer: Mapping[str, Any]) -> str:
    return str(layer.get("module") or layer.get("node") or "?")
