"""inspect: what a checkpoint, an artifact or a scan is, or which series a DICOM folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from medattn_edge.errors import UsageError
from medattn_edge.nearby import missing
from medattn_edge.spec import OVERLAP

from . import console
from .expected import in_words
from .fp64_text import fp64_lines
from .inspect_dicom import show_series
from .inspect_folder import show_folder
from .inspect_foreign import show_foreign
from .inspect_scan import is_scan, show_scan
from .options import GeometryOption, VolumeOption, check_choice, parse_sizes
from .released import Trusted, opened
from .rewrites import in_a_line


def command(  # noqa: PLR0913
    path: Annotated[
        Path,
        typer.Argument(
            help="A checkpoint, an artifact, RELEASE or RELEASE#ARTIFACT, a network from elsewhere, a MONAI bundle, "
            "nnU-Net's results, a scan, or a DICOM folder."
        ),
    ],
    weights: Annotated[
        str, typer.Option("--weights", metavar="KEY", help="Foreign checkpoint: which of several sets of weights.")
    ] = "",
    spec: Annotated[bool, typer.Option("--spec", help="Only the spec, in JSON: a file for export --spec.")] = False,
    orientation: Annotated[
        str, typer.Option("--orientation", metavar="RAS", help="Of a bundle or results that do not say it.")
    ] = "",
    fold: Annotated[str, typer.Option("--fold", help="Of nnU-Net's results: 0 to 4, or all.")] = "",
    patch: Annotated[
        str, typer.Option("--patch", metavar="[DX]HXW", help="Of a network from elsewhere, where its sizes are free.")
    ] = "",
    output_name: Annotated[
        str, typer.Option("--output-name", help="Of a network from elsewhere: which output is logits.")
    ] = "",
    geometry: GeometryOption = None,
    volume_number: VolumeOption = 0,
    trusted: Trusted = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Print spec, lineage, inputs, outputs and operators of a model; a scan's grid and values; or a folder's series."""
    how = _How(weights, spec, orientation, fold, patch, output_name, geometry, volume_number, json)
    with opened([path], trusted) as models:
        _inspect(models.files[0], str(path), how)


class _How(NamedTuple):
    """The options, by their names."""

    weights: str
    spec: bool
    orientation: str
    fold: str
    patch: str
    output_name: str
    geometry: str | None
    volume: int
    json: bool


def _inspect(path: Path, title: str, how: _How) -> None:
    """title: what was typed."""
    from medattn_edge.artifact import is_artifact, manifest_path

    if is_artifact(path) and not (how.fold or how.orientation or how.patch or how.output_name):
        # First, because its manifest says all: neither a runtime nor a reader of scans is loaded.
        check_choice(how.geometry, how.volume, [], "medattn-edge inspect")
        _tell(title, _artifact(path), how)
        return
    from medattn_edge.io.scan import Scan, is_dicom_source

    if path.is_dir() and show_folder(path, how.json, how.orientation, how.fold, how.spec):
        return
    if how.fold or how.orientation:
        raise UsageError(
            f"--fold or --orientation for {path.name}",
            expected="a MONAI bundle, or a folder of nnU-Net's results",
            hint="leave it out",
        )
    if is_dicom_source(path):
        if how.spec:
            raise UsageError(f"--spec of {path}", expected="a checkpoint or an artifact", hint="leave --spec out")
        if how.geometry:
            raise UsageError(f"--geometry with {path.name!r}", expected="a NIfTI file", hint="leave --geometry out")
        show_series(path, how.json, how.volume)
        return
    if is_scan(path):
        show_scan(Scan(path, geometry=how.geometry or "", volume=how.volume), how.json)
        return
    check_choice(how.geometry, how.volume, [], "medattn-edge inspect")
    if not path.is_file():
        raise missing(path, "a model or a scan")
    if not manifest_path(path).is_file():
        sizes = parse_sizes(how.patch) if how.patch else None
        if show_foreign(path, how.json, sizes, how.output_name, how.spec):
            return
    if how.patch or how.output_name:
        raise UsageError(
            f"--patch or --output-name for {path.name}",
            expected="an ONNX, TorchScript or torch.export file from elsewhere",
            hint="leave it out",
        )
    from medattn_edge.backends import backend_of

    facts = _checkpoint(path, how.weights) if backend_of(path).name == "eager" else _artifact(path)
    _tell(title, facts, how)


def _tell(title: str, facts: dict[str, Any], how: _How) -> None:
    """Print what a model is, in the form that was asked for."""
    if how.spec:
        console.print_json({**facts["spec"], **_windows_of_checkpoint(facts)})
        _note_assumed(facts.get("reading") or {})
    elif how.json:
        console.print_json(facts)
    else:
        _show(title, facts)


def _artifact(path: Path) -> dict[str, Any]:
    from medattn_edge.artifact import Artifact

    return Artifact.read(path).manifest.to_json()


def _checkpoint(path: Path, weights: str) -> dict[str, Any]:
    from collections import Counter

    from medattn_edge.artifact import SCHEMA
    from medattn_edge.models import checkpoint
    from medattn_edge.models.flops import gflop
    from medattn_edge.models.network import parameter_count

    loaded = checkpoint.load(path, weights=weights or None)
    spec, network = loaded.spec, loaded.network
    leaves = [type(module).__name__ for module in network.modules() if not list(module.children())]
    return {
        "schema": SCHEMA,
        "spec": spec.to_json(),
        "precision": "fp32",
        "sha256": loaded.sha256,
        "parent_sha256": None,
        "layout": loaded.layout,
        "foreign": loaded.foreign,
        "batch": None,
        "inputs": {"image": [-1, spec.in_channels, *spec.patch]},
        "outputs": {"logits": [-1, spec.outputs, *spec.patch]},
        "operators": dict(sorted(Counter(leaves).items())),
        "parameters": parameter_count(network),
        "gflop": gflop(network, spec),
        "attention_maps": list(network.attention_names),
        "notes": dict(loaded.notes),
        "reading": loaded.reading,
    }


def _gate(gate: dict[str, Any]) -> str:
    """What the file carries: limits, the labels that they were held on, and the values in the files of true labels."""
    from medattn_edge.file_gate import FileGate, gate_text

    text = gate_text(FileGate.from_json(gate).limits)
    if gate["labels"]:
        text += f"; judged on {', '.join(gate['labels'])}"
    values = [f"{name}={','.join(map(str, numbers))}" for name, numbers in gate["label_values"].items()]
    return f"{text}; true labels {' '.join(values)}" if values else text


def _show(title: str, facts: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=title, show_header=False)
    spec = facts["spec"]
    rows = {
        "network": f"{spec['network']} {spec['config']}",
        **_labels(spec),
        "orientation": spec["orientation"],
        "patch": f"{_times(spec['patch'])}, multiples of {_times(spec['stride'])}, axes {spec['axes']}",
        "spacing": f"{_times(spec['spacing'])} mm" if spec["spacing"] else "as scanned",
        "intensity": spec["intensity"],
        **_rest_of(spec),
        **_windows(facts),
        "precision": facts["precision"],
        **_islands(facts.get("recipe") or {}),
        "sha256": facts["sha256"],
        "made from": facts["parent_sha256"] or f"a checkpoint in the layout {facts.get('layout')}",
        "inputs": _shapes(facts["inputs"]),
        "outputs": _shapes(facts["outputs"]),
        "attention maps": ", ".join(facts["attention_maps"]) or "none",
        "operators": ", ".join(f"{count} {kind}" for kind, count in facts["operators"].items()),
        "parameters": f"{facts['parameters']:,}",
        "GFLOP a patch": f"{facts['gflop']:.2f}",
    }
    if facts.get("rewrites"):
        rows["rewrites"] = in_a_line(facts["rewrites"])
    if facts.get("gate"):
        rows["gate"] = _gate(facts["gate"])
    if facts.get("agreement"):
        rows["agreement"] = "; ".join(
            f"{case['input']}: SQNR {case['sqnr_db']:.1f} dB, label match {case['label_match']:.6f}"
            for case in facts["agreement"]
        )
        if lines := fp64_lines(facts["agreement"]):
            rows["noise of FP32"] = "; ".join(lines)
    if facts.get("tools"):
        rows["made with"] = ", ".join(f"{name} {version}" for name, version in facts["tools"].items())
    rows |= _reading(facts.get("reading") or {})
    for name, value in rows.items():
        table.add_row(name, value)
    console.show(table)


def _labels(spec: dict[str, Any]) -> dict[str, str]:
    """Labels by value, or regions by output."""
    names = ", ".join(f"{value} {name}" for value, name in enumerate(spec["labels"]))
    if spec["activation"] != "sigmoid":
        return {"labels": names}
    return {"regions": f"{names}; label map: {', '.join(spec['region_order']) or 'none'}"}


def _rest_of(spec: dict[str, Any]) -> dict[str, str]:
    """What a spec says only where somebody wished it."""
    rows = {
        "after": ", ".join(spec["cleanup"]),
        "mirror": spec["mirror"],
        "modality": spec["modality"] or "not said: scans of any are taken",
        "body part": spec["body_part"],
        "channels": ", ".join(spec["channels"]),
    }
    return {name: text for name, text in rows.items() if text}


def _windows(facts: dict[str, Any]) -> dict[str, str]:
    """How windows overlap, where they do not as usual."""
    own, usual = facts["spec"].get("overlap"), _windows_of_checkpoint(facts).get("overlap")
    if own is None and usual is None:
        return {}
    own = OVERLAP if own is None else own
    held = "" if usual is None else f"; held to the checkpoint's, which overlap by {usual:g}"
    return {"windows": f"overlap by {own:g}{held}"}


def _windows_of_checkpoint(facts: dict[str, Any]) -> dict[str, float]:
    """The overlap that a file made again of the checkpoint has to start from: this one's was tuned for this one."""
    reference = (facts.get("tiling") or {}).get("reference_overlap")
    return {} if reference is None else {"overlap": reference}


def _note_assumed(reading: dict[str, Any]) -> None:
    """Say which fields of a printed spec are facts of nobody: with export --spec they would be taken as given."""
    assumed = {**reading.get("assumptions", {}), **reading.get("spec_assumptions", {})}
    if assumed:
        console.note("nobody gave these, and export --spec takes them as given: " + ", ".join(assumed), level=0)


def _reading(reading: dict[str, Any]) -> dict[str, str]:
    """How a foreign checkpoint was read, and what its owner's logits proved."""
    rows = {}
    if reading.get("assumptions"):
        rows["assumed"] = in_words(reading["assumptions"])
    if reading.get("spec_assumptions"):
        rows["assumed of its input"] = "\n".join(
            f"{option:<14} {value}" for option, value in reading["spec_assumptions"].items()
        )
    if reading.get("remarks"):
        rows["weights"] = "; ".join(reading["remarks"])
    proof = reading.get("expectation")
    if proof:
        cases = ", ".join(f"{case['source']} ({case['sqnr_db']:.1f} dB)" for case in proof["cases"])
        rows["as its owner expects"] = f"{cases}; proven: {in_words(proof['proven']) or 'nothing was open'}"
    proof = reading.get("scan_expectation")
    if proof:
        dice = min(proof["winner"]["dice"].values())
        rows["as its owner's result"] = (
            f"{proof['source']}: minimum Dice {dice:.4f}, label match {proof['winner']['label_match']:.6f}; "
            f"searched: {', '.join(proof['searched']) or 'nothing'}, in {proof['runs']} runs"
        )
    return rows


def _islands(recipe: dict[str, Any]) -> dict[str, str]:
    """What stayed FP32 in an FP16 graph, and how near its tensors came to the end of half precision."""
    from collections import Counter

    if "islands" not in recipe:
        return {}
    rules = Counter(island["rule"] for island in recipe["islands"])
    rows = {"FP32 islands": f"{rules.total()}: " + ", ".join(f"{count} {rule}" for rule, count in rules.items())}
    if recipe.get("magnitudes"):
        name, most = next(iter(recipe["magnitudes"].items()))
        rows["largest value"] = f"{most:g} in {name}, on {', '.join(recipe['measured_on'])}; a half ends at 65504"
    return rows


def _shapes(shapes: dict[str, list[int]]) -> str:
    return "; ".join(
        f"{name} ({', '.join('N' if size < 0 else str(size) for size in shape)})" for name, shape in shapes.items()
    )


def _times(sizes: list[float]) -> str:
    return "x".join(f"{size:g}" for size in sizes)
