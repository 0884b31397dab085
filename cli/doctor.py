"""doctor: what this host can run, in which precision it would really compute, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medattn_edge.installation import install_line

from . import console

if TYPE_CHECKING:
    from medattn_edge.host.cores import CoreLimits
    from medattn_edge.host.diagnosis import HostReport

_COLUMNS = 80
_MAX_PROBLEMS = 3
_NOTHING_RUNS = 3  # as an HostError
_REMOTE = "triton"  # its models run on a server
_DICOM = {
    **dict.fromkeys(("pydicom", "highdicom"), "dicom"),
    **dict.fromkeys(("pyjpegls", "pylibjpeg", "pylibjpeg-openjpeg", "python-gdcm"), "dicom-codecs"),
    "pynetdicom": "node",
}


def command(json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False) -> None:
    """Explain the combination: CPU, GPU, runtimes, what runs here in which precision, and how to install the rest.

    It begins with a verdict and what to type next; -v shows all.
    """
    from medattn_edge.backends import backends
    from medattn_edge.backends.compiler import compilers
    from medattn_edge.host import diagnosis

    with console.timed("asking the runtimes"):
        host = diagnosis.read_host()
    rows = [row for backend in backends().values() for row in diagnosis.backend_rows(backend, host)]
    document = {
        "cpu": asdict(host.cpu),
        "cores": None if host.cores is None else {**asdict(host.cores), "usable": host.cores.usable},
        "cpu_settings": [asdict(setting) for setting in host.settings],
        "gpus": [asdict(gpu) for gpu in host.gpus],
        "packages": {name: host.versions.get(name) for name in diagnosis.DISTRIBUTIONS},
        "runtimes": {name: asdict(answer) for name, answer in host.reports.items()},
        "backends": [asdict(row) for row in rows],
        "compilers": [asdict(diagnosis.compiler_row(one, host)) for one in compilers().values()],
        "dicom": _dicom(host),
        "problems": [asdict(problem) for problem in diagnosis.problems(host)],
    }
    if json:
        console.print_json(document)
    else:
        _verdict(document)
        if console.verbosity > 1:
            _print(document, host)
        else:
            _summary(document)
    raise typer.Exit(0 if any(row.runs for row in rows) else _NOTHING_RUNS)


def _verdict(document: dict[str, Any]) -> None:
    """Whether artifacts run here, and the one line to type next."""
    able = [row for row in document["backends"] if row["runs"] and row["name"] != _REMOTE]
    remote = any(row["runs"] and row["name"] == _REMOTE for row in document["backends"])
    lines = [row["install"] for row in document["backends"] if row["install"]]
    problems = document["problems"]
    if not able and remote:
        verdict, hint = "models of a Triton server run from here", "medattn-edge serve check NAME.triton"
    elif not able:
        verdict, hint = "no backend runs here", next(iter(lines), "medattn-edge doctor -v")
    elif problems:
        several = f"{len(problems)} problems" if len(problems) > 1 else "one problem"
        verdict, hint = f"artifacts run here, with {several}", problems[0]["hint"]
    elif document["gpus"] and all(row["device"] == "cpu" for row in able):
        verdict = "artifacts run here on the CPU; nothing that is installed uses the GPU"
        gpu = [row["install"] for row in document["backends"] if row["install"] and row["device"] != "cpu"]
        hint = next(iter(gpu), "medattn-edge doctor -v")
    else:
        verdict, hint = "artifacts run here", "medattn-edge infer NET.onnx SCAN -o labels.nii.gz"
        if any(row["name"] == "eager" for row in able):
            hint = "medattn-edge demo, or medattn-edge export CHECKPOINT -o net.onnx"
    console.say(f"verdict: {verdict}\n  next: {hint}")


def _summary(document: dict[str, Any]) -> None:
    """What fits a screen of 80 x 24: a line for each backend, and where the rest is."""
    cpu, cores = document["cpu"], document["cores"]
    usable = cpu["physical_cores"] if cores is None else cores["usable"]
    console.say(
        _short(f"CPU: {cpu['model']}, {usable} usable cores, {', '.join(cpu['instruction_sets']) or 'not known'}")
    )
    console.say(_short(f"GPU: {', '.join(gpu['name'] for gpu in document['gpus']) or 'none, or no NVIDIA driver'}"))
    for row in document["backends"]:
        computed = ", ".join(f"{name}: {row['precisions'][name]}" for name in ("fp32", "int8")) if row["runs"] else ""
        says = f"runs on {row['device']}; {computed}" if row["runs"] else f"no: {row['why']}"
        if row["runs"] and row["name"] == _REMOTE:
            says = "asks a server; whether that computes: serve check NAME.triton"
        console.say(_short(f"  {row['name']:<14} {says}"))
    writers = [row["name"] for row in document["compilers"] if row["runs"]]
    console.say(_short(f"compilers that run: {', '.join(writers) or 'none'}"))
    absent = [row["what"] for row in document["dicom"] if not row["found"]]
    console.say(_short(f"DICOM: {'all there' if not absent else 'without ' + ', '.join(absent)}"))
    for problem in document["problems"][:_MAX_PROBLEMS]:
        console.say(f"problem: {problem['found']}\n  next: {problem['hint']}")
    left = len(document["problems"]) - _MAX_PROBLEMS
    more = f"{left} more problems, " if left > 0 else ""
    console.say(f"{more}all precisions, packages, install lines: doctor -v")


def _short(text: str) -> str:
    """One row of a terminal."""
    return text if len(text) <= _COLUMNS else f"{text[: _COLUMNS - 3]}..."


def _print(document: dict[str, Any], host: HostReport) -> None:
    _show("this host", ("what", "found", "install"), _environment(host))
    backends = [
        (
            *(row["name"], row["device"], "yes" if row["runs"] else "no"),
            *(row["precisions"][name] if row["runs"] else "-" for name in ("fp32", "fp16", "int8")),
        )
        for row in document["backends"]
    ]
    _show("backends: what an artifact is really computed in", _BACKENDS, backends)
    _remark(document["backends"])
    compilers = [
        (row["name"], ", ".join(row["suffixes"]), "yes" if row["runs"] else "no") for row in document["compilers"]
    ]
    if compilers:
        _show("compilers", ("compiler", "writes", "runs"), compilers)
        _remark(document["compilers"])
    dicom = [(row["what"], row["found"] or "none", row["install"] or "") for row in document["dicom"]]
    _show("DICOM: reading, writing, receiving", ("what", "found", "install"), dicom)
    for problem in document["problems"]:
        console.say(f"problem: {problem['found']}\n  next: {problem['hint']}")


_BACKENDS = ("backend", "device", "runs", "fp32", "fp16", "int8")


def _environment(host: HostReport) -> list[tuple[str, str, str]]:
    from medattn_edge.host.diagnosis import line_for
    from medattn_edge.host.hardware import isa_class

    cpu = host.cpu
    cores = f"{cpu.physical_cores} cores, {cpu.logical_cores} threads"
    flags = f"{', '.join(cpu.instruction_sets) or 'not known'} (INT8 as {isa_class(cpu)})"
    rows = [("CPU", f"{cpu.model}, {cpu.architecture}, {cores}", ""), ("CPU instructions", flags, "")]
    if host.cores is not None:
        rows.append(("usable cores", _cores(host.cores), ""))
    rows += [(one.variable, f"{one.value}: {one.effect}", "") for one in host.settings]
    for gpu in host.gpus:
        text = f"{gpu.name}, {gpu.compute_capability}, {gpu.memory_mib} MiB, driver {gpu.driver}, CUDA {gpu.cuda}"
        rows.append((f"GPU {gpu.index}", text, ""))
    if not host.gpus:
        rows.append(("GPU", "none, or no NVIDIA driver", ""))
    runtimes = ("torch", "torch-tensorrt", "tensorrt", "tensorrt-rtx", "onnxruntime", "openvino", "nncf")
    for name in runtimes:
        version = host.versions.get(name) or (host.versions.get("onnxruntime-gpu") if name == "onnxruntime" else None)
        rows.append((name, _runtime(name, version, host), "" if version else line_for(name)))
    return rows


def _cores(limits: CoreLimits) -> str:
    """The threads that our commands take, and what bounds them."""
    affinity = (
        "not known" if limits.affinity is None else f"{len(limits.affinity)} CPUs on {limits.allowed_cores} cores"
    )
    quota = "none" if limits.cpu_quota is None else f"{limits.cpu_quota:g} CPUs"
    return f"{limits.usable} (affinity: {affinity}; cgroup quota: {quota})"


def _runtime(name: str, version: str | None, host: HostReport) -> str:
    """A runtime's version with what it says of itself."""
    report = host.reports.get(name.replace("-", "_"))
    if version is None or report is None:
        return version or "not installed"
    if report.fault:
        return f"{version}, {report.fault.removeprefix('is ')}"
    facts = report.facts
    says = {
        "torch": f"CUDA {facts.get('cuda') or 'none'}",
        "onnxruntime": ", ".join(facts.get("providers", ())),
        "openvino": f"would compute FP32 in {facts.get('default_inference_precision')} by default; we set f32",
    }
    return f"{version}, {says[name]}" if name in says else version


def _dicom(host: HostReport) -> list[dict[str, str | None]]:
    """A row for each library, and for each compression with what decodes it; install: the line that helps, or None."""
    rows = [
        {"what": name, "found": host.versions.get(name), "install": _line(extra, name in host.versions)}
        for name, extra in _DICOM.items()
    ]
    report = host.reports.get("pydicom")
    decoders = report.facts.get("decoders", {}) if report is not None else {}
    for kind, names in decoders.items():
        rows.append({"what": kind, "found": ", ".join(names) or None, "install": _line("dicom-codecs", bool(names))})
    return rows


def _line(extra: str, found: bool) -> str | None:
    return None if found else install_line(extra)


def _remark(rows: list[dict[str, Any]]) -> None:
    """Why a row does not run, and the line that helps: below the table, where it can be copied."""
    for row in rows:
        if row["why"] or row["install"]:
            helps = f"\n    {row['install']}" if row["install"] else ""
            console.say(f"  {row['name']}: {row['why']}{helps}")


def _show(title: str, headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    from rich.table import Table

    table = Table(*headings, title=title)
    for row in rows:
        table.add_row(*row)
    console.show(table)
