"""inspect, on a network from elsewhere: what its file says, and whether it can be exported as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medattn_edge.errors import InputError, quoted

from . import console

_ASSUMED = "nobody gave these, and export --spec takes them as given: "


def show_foreign(
    path: Path, json: bool, patch: tuple[int, ...] | None = None, output: str = "", only_spec: bool = False
) -> bool:
    """Print what an ONNX, TorchScript or torch.export file holds; False for any other file, and without the extra."""
    try:
        from medattn_edge.foreign import describe, kind_of
    except ImportError:  # a host that runs artifacts and exports nothing
        return False
    if kind_of(path) is None:
        return False
    facts = describe(path, patch=patch, output=output)
    if only_spec:
        if "refused" in facts:
            raise InputError(
                f"{path.name} has no spec, because it cannot be exported as it is: {facts['refused']}",
                expected="a network from one image to logits of its size",
                hint=facts["hint"] or f"medattn-edge inspect {quoted(path)}",
            )
        console.print_json(facts["spec"])
        console.note(_ASSUMED + ", ".join(facts["spec_assumptions"]), level=0)
    elif json:
        console.print_json(facts)
    else:
        _show(path, facts)
    return True


def _show(path: Path, facts: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=str(path), show_header=False)
    rows = {
        "file": facts["kind"] + (f", opset {facts['opset']}" if "opset" in facts else ""),
        "made by": facts.get("producer", ""),
        "sha256": facts["sha256"],
        "inputs": _shapes(facts["inputs"]),
        "outputs": _shapes(facts["outputs"]),
        "operators": ", ".join(f"{count} {kind}" for kind, count in facts["operators"].items()),
        "parameters": f"{facts['parameters']:,}",
    }
    if "gflop" in facts:
        rows["GFLOP a patch"] = f"{facts['gflop']:.2f}"
        rows["attention"] = ", ".join(f"{one['kind']} {one['node']}" for one in facts["attentions"]) or "none found"
        rows["last node"] = f"{facts['activation']}, which export cuts off" if facts["activation"] else "logits"
    if "ends" in facts:
        rows["last tensors"] = ", ".join(facts["ends"])
    if "spec" in facts:
        rows["assumed of its input"] = "\n".join(
            f"{option:<14} {value}" for option, value in facts["spec_assumptions"].items()
        )
        rows["notes"] = "; ".join(facts["notes"]) or "none"
        rows["export"] = "medattn-edge export SOURCE -o NET.onnx --labels background,..."
    else:
        rows["export"] = f"refused: {facts['refused']}"
        rows["next"] = facts["hint"]
    for name, value in rows.items():
        table.add_row(name, value or "not said")
    console.show(table)


def _shapes(shapes: dict[str, list[int]]) -> str:
    return "; ".join(
        f"{name} ({', '.join('?' if size < 0 else str(size) for size in shape)})" for name, shape in shapes.items()
    )
