"""inspect, on a folder of another tool's: what export would make of it, what is assumed, or why it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medattn_edge.errors import MedattnError, quoted

from . import console

_TITLES = {"monai": "MONAI bundle", "nnunet": "nnU-Net's results"}


def show_folder(path: Path, json: bool, orientation: str = "", fold: str = "", only_spec: bool = False) -> bool:
    """Print what a MONAI bundle or a folder of nnU-Net's results would be exported as; False for any other folder.

    Raises what `read_folder` raises when only the spec is asked for, and there is none.
    """
    from medattn_edge.bundles import kind_of_folder

    kind = kind_of_folder(path)
    if kind is None:
        return False
    facts = _facts(path, kind, orientation, fold, only_spec)
    if only_spec:
        console.print_json(facts["spec"])
        for text in facts["assumptions"]:
            console.note(f"assumed: {text}", level=0)
    elif json:
        console.print_json(facts)
    else:
        _show(path, facts)
    return True


def _facts(path: Path, kind: str, orientation: str, fold: str, must: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"kind": _TITLES[kind]}
    try:
        from medattn_edge.bundles import read_folder
        from medattn_edge.models.flops import gflop
        from medattn_edge.models.network import parameter_count

        read = read_folder(path, orientation=orientation, fold=fold)
    except MedattnError as error:
        if must:
            raise
        return {**facts, "refused": error.message, "hint": error.hint}
    except ImportError as error:
        from medattn_edge.errors import MissingDependency

        raise MissingDependency.of_extra(str(error.name), "export") from error
    loaded = read.checkpoint
    spec, network = loaded.spec, loaded.network
    return {
        **facts,
        "sha256": loaded.sha256,
        "layout": loaded.layout,
        "spec": spec.to_json(),
        "assumptions": list(read.assumptions),
        "inputs": {"image": [-1, spec.in_channels, *spec.patch]},
        "outputs": {"logits": [-1, spec.outputs, *spec.patch]},
        "parameters": parameter_count(network),
        "gflop": gflop(network, spec),
        "attention_maps": list(network.attention_names),
        "notes": dict(loaded.notes),
    }


def _show(path: Path, facts: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=str(path), show_header=False)
    rows = {"folder": facts["kind"]}
    if "refused" in facts:
        rows |= {"export": f"refused: {facts['refused']}", "next": facts["hint"]}
    else:
        spec = facts["spec"]
        rows |= {
            "network": f"{spec['network']}, {facts['layout']}",
            "regions" if spec["activation"] == "sigmoid" else "labels": ", ".join(spec["labels"]),
            "channels": ", ".join(spec["channels"]) or str(spec["in_channels"]),
            "orientation": spec["orientation"],
            "patch": f"{'x'.join(map(str, spec['patch']))}, axes {spec['axes']}",
            "spacing": "x".join(f"{mm:g}" for mm in spec["spacing"]) + " mm" if spec["spacing"] else "as scanned",
            "intensity": spec["intensity"],
            "after": ", ".join(spec["cleanup"]),
            "modality": spec["modality"],
            "sha256": facts["sha256"],
            "parameters": f"{facts['parameters']:,}",
            "GFLOP a patch": f"{facts['gflop']:.2f}",
            "attention maps": ", ".join(facts["attention_maps"]) or "none",
            "assumed": "\n".join(facts["assumptions"]) or "nothing",
            "export": f"medattn-edge export {quoted(path)} -o NET.onnx",
        }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    console.show(table)
