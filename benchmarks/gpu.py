"""Every way to run the cases on an NVIDIA GPU, in one command on a host that has nothing but a driver.

    make bench-gpu            # or: python benchmarks/gpu.py [CASE...] [--duration 10] [-o FILE]

Eager, TorchScript, torch.compile and ONNX Runtime's CUDA provider; TensorRT for RTX from its wheel; TensorRT and
Torch-TensorRT where they are installed: FP32, FP16 and INT8 where the runtime computes it. One interleaved run a case,
each row beside its agreement with eager on the CPU, timed by CUDA events where the runtime has them. One JSON: the rows
of all cases, what was not measured and why, which rows are recorded as CUDA graphs, and the GPU with its clocks before
and after each case.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from artifacts import Files
from cases import CASES, GPU, Case, Form
from suite import FOLDER, RESULTS, not_here, run, table, write

from medattn_edge.backends import backends
from medattn_edge.backends.isolated import IsolatedSession
from medattn_edge.backends.session import Options, Session
from medattn_edge.errors import MedattnError
from medattn_edge.evaluation import BenchSettings
from medattn_edge.host.diagnosis import HostReport, backend_rows, read_host

ON_GPU = "cuda:0"
DEFAULT = (
    *("attention-unet-2d-published", "self-guided-published", "attention-unet-3d-published"),
    *("attention-unet-2d-initial", "self-guided-initial", "attention-unet-3d-initial", "lungs-attention-unet-2d"),
)
# What torch and ONNX Runtime have on any CUDA host, besides the engines and eager of `cases.GPU`.
ALWAYS = (
    Form("fused.torchscript", "torchscript", "torchscript", "fp32", "gpu", device=ON_GPU),
    Form("torch.compile", "checkpoint", "eager", "fp32", "gpu", "gpu:open_compiled", "inductor", ON_GPU),
    Form("fused.onnx", "onnx", "onnxruntime", "fp32", "gpu", device=ON_GPU),
    Form("fp16.onnx", "fp16", "onnxruntime", "fp16", "fp16", device=ON_GPU),
)
TORCH_TENSORRT = Form("fused.ts", "torch_tensorrt", "torch-tensorrt", "fp32", "gpu", device=ON_GPU)
_NO_INT8 = "ONNX Runtime's CUDA provider computes Q/DQ in FP32: it has no INT8 convolution"


def rows(device: str = ON_GPU) -> tuple[Form, ...]:
    """All rows, on a device; on the CPU they are held to the gate of FP32 there."""
    everything = (*ALWAYS, *GPU, TORCH_TENSORRT)
    if device == ON_GPU:
        return everything
    return tuple(form._replace(device=device, asked=form.asked.replace("gpu", "fp32")) for form in everything)


def main(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="CASE...", help="By default the published networks, and a shipped one."),
    ] = None,
    duration: Annotated[float, typer.Option(help="Seconds for each row.")] = 10.0,
    folder: Annotated[Path, typer.Option(help="Where the files that are made are kept.")] = FOLDER,
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSON file.")] = RESULTS / "gpu.json",
) -> None:
    """Measure cases on the first GPU."""
    known = {case.name: case for case in CASES}
    chosen = names or [name for name in DEFAULT if not not_here(known[name])]
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)} is no case; expected some of {', '.join(known)}")
    host = read_host()
    if not host.gpus:
        print("no NVIDIA GPU with a driver is here; next: check nvidia-smi", file=sys.stderr)
        raise typer.Exit(3)
    settings = BenchSettings(duration_s=duration, timeout_s=1800)
    for document in measured([known[name] for name in chosen], rows(), settings, folder, host):
        write(document, output)  # after every case: an interruption keeps those before it
    for one in document["cases"].values():
        print(table(one))
    for name, why in document["absent"].items():
        print(f"{name}: not measured: {why}")


def measured(
    cases: Sequence[Case], forms: Sequence[Form], settings: BenchSettings, folder: Path, host: HostReport
) -> Iterator[dict[str, Any]]:
    """The result so far after every case; rows whose runtime does not run here are left out, each with its reason."""
    absent = obstacles(forms, host)
    able = [form for form in forms if form.name not in absent]
    if any(form.device != "cpu" for form in forms):
        absent["INT8 in ONNX Runtime"] = _NO_INT8
    found = {}
    for case in cases:
        document = run(case, able, settings, folder)
        graphs = _graphs(Files(case, folder), able, document)
        found[case.name] = document | {"cuda_graphs": graphs}
        yield {"gpus": [asdict(gpu) for gpu in host.gpus], "cases": dict(found), "absent": absent}


def obstacles(forms: Sequence[Form], host: HostReport) -> dict[str, str]:
    """Row -> why it does not run on this host, of those that do not: what `doctor` says of its runtime."""
    known = backends()
    why = {
        (name, row.device): row.why
        for name, record in known.items()
        for row in backend_rows(record, host)
        if not row.runs
    }
    offered = {(name, row.device) for name, record in known.items() for row in backend_rows(record, host)}
    return {
        form.name: why.get((form.backend, form.device), f"{form.backend} does not run on {form.device}")
        for form in forms
        if (form.backend, form.device) in why or (form.backend, form.device) not in offered
    }


def _graphs(files: Files, forms: Sequence[Form], document: Mapping[str, Any]) -> dict[str, str]:
    """Of the rows that have a speed on a GPU: whether their work is recorded as a CUDA graph, or why not."""
    timed = {row["artifact"] for row in document["rows"] if row["p50_ms"] is not None}
    found = {}
    for form in forms:
        if form.name not in timed or form.backend not in ("tensorrt", "tensorrt-rtx"):
            continue
        try:
            with IsolatedSession(files.make(form.made), backend=form.backend, options=Options(form.device)) as session:
                refused = session.facts.get("cuda_graph_refused", "it does not say why")
                found[form.name] = "recorded" if session.facts.get("cuda_graph") else f"not recorded: {refused}"
        except MedattnError as error:
            found[form.name] = f"not known: {error.message}"
    return found


def open_compiled(path: Path | str, *, device: str = ON_GPU, threads: int = 0, **_: Any) -> Session:
    """torch.compile with its default, inductor, for one static shape, on a device; compiled by the first run."""
    import torch

    from medattn_edge.backends.torch.eager import EagerSession
    from medattn_edge.models import checkpoint

    loaded = checkpoint.load(Path(path))
    network: Any = torch.compile(loaded.network.eval(), dynamic=False)
    return EagerSession(network, loaded.spec, Options(device, threads))


if __name__ == "__main__":
    typer.run(main)
