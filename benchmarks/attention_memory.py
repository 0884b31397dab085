"""How much memory a large patch takes in each runtime: the peak of a process that opens one file and runs it twice.

    python benchmarks/attention_memory.py -o attention-memory.json [--patch 512] [--backbone resnext101_32x8d]

The self-guided network has N = (patch / 4)^2 positions, and plain position attention two matrices of N x N: 2 GiB at
512. Its weights are random, the gains of its attentions away from 0. `over weights` is the peak of the whole process,
Python and the runtime's libraries included, less the size of the file: a runtime that keeps FP32 copies of weights in
fewer bits, or weights in two layouts, pays for them. Each file's agreement with the eager network is in its row.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer

from medattn_edge import gates
from medattn_edge.agreement import LogitsDistance
from medattn_edge.artifact import Artifact, manifest_path, sha256
from medattn_edge.backends.compiler import CompileSettings
from medattn_edge.backends.isolated import IsolatedSession
from medattn_edge.backends.session import Options
from medattn_edge.compile.compilation import compile_artifact
from medattn_edge.exporters import export_fp32, random_patches
from medattn_edge.models import build, checkpoint, network_record
from medattn_edge.precision import fp16
from medattn_edge.precision.observe import floating_tensors, ranges
from medattn_edge.precision.onnx_graph import operators, read
from medattn_edge.precision.quantizers.quantizer import Calibration, QuantizationRecipe, quantizers
from medattn_edge.rewrites import ALWAYS_GOOD, rewrite
from medattn_edge.spec import ModelSpec

LIMIT_MIB = 1536.0  # over the weights, at 512
_MIB = 1.048576  # in 1e6 bytes
_BLOCKED = (*ALWAYS_GOOD, "position-blocks")
_HEAD = ("row", "runs in", "file MiB", "peak MiB", "over weights MiB", "SQNR dB")


class Row(NamedTuple):
    """file: a method of Files. backend: as open_session takes it. opener: what the child calls instead."""

    name: str
    backend: str
    file: str
    opener: str = "medattn_edge.backends:open_session"


ROWS = (
    Row("eager", "eager", "checkpoint"),
    Row("TorchScript", "torchscript", "torchscript"),
    Row("ONNX", "onnxruntime", "onnx"),
    Row("ONNX, read by OpenVINO", "openvino", "onnx"),
    Row("OpenVINO IR", "openvino", "openvino"),
    Row("FP16 ONNX", "onnxruntime", "fp16"),
    Row("INT8 ONNX", "onnxruntime", "int8"),
    Row("INT8 ONNX, read by OpenVINO", "openvino", "int8"),
    Row("INT8 OpenVINO IR", "openvino", "int8_openvino"),
)
PLAIN = (
    Row("eager, plain attention", "eager", "checkpoint", "attention_memory:open_plain"),
    Row("TorchScript, plain attention", "torchscript", "plain_torchscript"),
    Row("ONNX, plain attention", "onnxruntime", "plain_onnx"),
    Row("ONNX, plain attention, read by OpenVINO", "openvino", "plain_onnx"),
)


class Files:
    """Makes the files when they are asked for, and once; folder: where they are."""

    def __init__(self, folder: Path, patch: int, backbone: str = "resnext101_32x8d", width: int = 64) -> None:
        self.folder, self.patch, self.settings = Path(folder), patch, {"backbone": backbone, "width": width}
        self.folder.mkdir(parents=True, exist_ok=True)

    def checkpoint(self) -> Path:
        """Random weights, gains between 0.3 and 0.7."""
        path = self.folder / "network.safetensors"
        if not path.is_file():
            torch.manual_seed(0)
            settings = {**network_record("self-guided").settings, **self.settings}
            labels = ("background", "one", "two", "three", "four")
            spec = ModelSpec("self-guided", 1, labels, (self.patch, self.patch), (8, 8), config=settings)
            network = build(spec)
            with torch.no_grad():
                for name, parameter in network.named_parameters():
                    if name.endswith("gamma"):
                        parameter.uniform_(0.3, 0.7)
            checkpoint.save(path, network, spec)
        return path

    def torchscript(self) -> Path:
        """Scripted, its attention in blocks of queries."""
        return self._exported("blocked.torchscript", _BLOCKED)

    def onnx(self) -> Path:
        """ONNX with blocks of queries."""
        return self._exported("blocked.onnx", _BLOCKED)

    def plain_torchscript(self) -> Path:
        """Scripted, its attention plain."""
        return self._exported("plain.torchscript", tuple(ALWAYS_GOOD))

    def plain_onnx(self) -> Path:
        """ONNX with two products and a softmax for each attention."""
        return self._exported("plain.onnx", tuple(ALWAYS_GOOD))

    def openvino(self) -> Path:
        """The IR that is compiled from the ONNX file with blocks."""
        path = self.folder / "blocked.xml"
        if not path.is_file():
            noise = random_patches(Artifact.read(self.onnx()).spec, 1, seed=1)
            compile_artifact(self.onnx(), path, None, CompileSettings(), {"noise": noise})
        return path

    def fp16(self) -> Path:
        """Typed FP16 with its islands."""
        path = self.folder / "fp16.onnx"
        if not path.is_file():
            parent = Artifact.read(self.onnx())
            noise = random_patches(parent.spec, 1, seed=1)
            gate = gates.FP16_NOISE.thresholds  # untrained weights have no labels to keep
            fp16.convert(parent, path, {"noise": noise}, random_patches(parent.spec, 1), gate=gate)
        return path

    def int8(self) -> Path:
        """Q/DQ by NNCF on the ONNX graph."""
        return self._quantised("int8.onnx", "nncf-onnx")

    def int8_openvino(self) -> Path:
        """INT8 by NNCF on the OpenVINO model."""
        return self._quantised("int8.xml", "nncf-openvino")

    def _exported(self, name: str, names: tuple[str, ...]) -> Path:
        path = self.folder / name
        if not path.is_file():
            loaded = checkpoint.load(self.checkpoint())
            noise = {"random": random_patches(loaded.spec, 1)}
            gate = gates.FP32.thresholds.without_fp64()  # each row is held to eager; FP64 of such a patch takes minutes
            export_fp32(rewrite(loaded, names), path, noise, gate=gate)
        return path

    def _quantised(self, name: str, quantizer_name: str) -> Path:
        """By the quantizer itself: no gate can be held by weights that never learnt."""
        path = self.folder / name
        if not path.is_file():
            parent, quantizer = Artifact.read(self.onnx()), quantizers()[quantizer_name]
            model, noise = read(parent.path), random_patches(parent.spec, 1, seed=1)
            calibration = Calibration([noise], "0" * 64, lambda: ranges(model, floating_tensors(model), [noise]))
            files = {suffix: path.with_suffix(suffix) for suffix in (path.suffix, *quantizer.companions)}
            quantizer.quantise(parent, model, calibration, QuantizationRecipe("cpu"), files)
            manifest = parent.manifest.child(
                precision="int8",
                sha256=sha256(path),
                operators=operators(read(path)) if path.suffix == ".onnx" else dict(parent.manifest.operators),
                companions={suffix: sha256(path.with_suffix(suffix)) for suffix in quantizer.companions},
            )
            manifest_path(path).write_text(json.dumps(manifest.to_json(), indent=2) + "\n", encoding="utf-8")
        return path


def open_plain(path: Path, **how: Any) -> Any:
    """`open_session` of the eager network with its attention whole, as it is trained."""
    from medattn_edge.backends import open_session
    from medattn_edge.models import attention

    attention.MAX_AT_ONCE = sys.maxsize
    return open_session(path, **how)


def measured(row: Row, path: Path, threads: int, image: Any) -> tuple[dict[str, Any], Any]:
    """A row of the table, and the logits."""
    stored = [path, *(path.with_suffix(suffix) for suffix in ((".bin",) if path.suffix == ".xml" else ()))]
    size = sum(one.stat().st_size for one in stored) / 1e6 / _MIB
    with IsolatedSession(
        path, backend=row.backend, options=Options(threads=threads), timeout_s=1800, opener=row.opener
    ) as session:
        session.run(image)
        logits = session.run(image)
        peak = session.peak_rss_mb / _MIB
    facts = {"row": row.name, "backend": row.backend, "file": path.name}
    return {**facts, "file_mib": round(size), "peak_mib": round(peak), "over_weights_mib": round(peak - size)}, logits


def table(files: Files, rows: tuple[Row, ...], threads: int, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Every row, with its agreement with the first."""
    image, found, reference = random_patches(checkpoint.load(files.checkpoint()).spec, 1, seed=2), [], None
    for row in rows:
        tell(f"making {row.name}")
        path = getattr(files, row.file)()
        gc.collect()  # what was made is in the files
        tell(f"running {row.name}")
        facts, logits = measured(row, path, threads, image)
        reference = logits if reference is None else reference
        found.append({**facts, "sqnr_db": _sqnr(reference, logits), "threads": threads})
    return found


def _sqnr(reference: Any, logits: Any) -> float | None:
    """None where they are the same bits."""
    distance = LogitsDistance()
    distance.add(reference, logits)
    return round(distance.sqnr_db, 1) if distance.noise else None


def main(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The results in JSON.")] = None,
    patch: Annotated[int, typer.Option(help="Height and width.")] = 512,
    backbone: Annotated[str, typer.Option(help="Of the self-guided network.")] = "resnext101_32x8d",
    folder: Annotated[Path | None, typer.Option(help="Where the files are made and kept.")] = None,
    threads: Annotated[int, typer.Option(help="Of the CPU.")] = 2,
    plain: Annotated[bool, typer.Option("--plain", help="Measure plain attention too.")] = False,
) -> None:
    """Print a table; exit code 1 when a row is over the limit, which is for 512."""
    made = folder or Path(tempfile.mkdtemp(prefix="attention-memory-"))
    try:
        files = Files(made, patch, backbone)
        rows = table(files, (*ROWS, *PLAIN) if plain else ROWS, threads, lambda what: print(what, file=sys.stderr))
    finally:
        if folder is None:
            shutil.rmtree(made)
    show(rows)
    about: Mapping[str, Any] = {"network": "self-guided", "backbone": backbone, "patch": [patch, patch]}
    if output:
        text = json.dumps({**about, "limit_mib": LIMIT_MIB, "rows": rows}, indent=2)
        output.write_text(text + "\n", encoding="utf-8")
    ours = {row.name for row in ROWS}
    raise typer.Exit(int(any(row["row"] in ours and row["over_weights_mib"] > LIMIT_MIB for row in rows)))


def show(rows: list[dict[str, Any]]) -> None:
    """The table in Markdown."""
    print("| " + " | ".join(_HEAD) + " |\n|" + "---|" * len(_HEAD))
    for row in rows:
        sqnr = "same bits" if row["sqnr_db"] is None else row["sqnr_db"]
        cells = (row["row"], row["backend"], row["file_mib"], row["peak_mib"], row["over_weights_mib"], sqnr)
        print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    typer.run(main)
