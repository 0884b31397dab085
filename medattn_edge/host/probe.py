"""Ask packages what they are, each in a process of its own: one that crashes on import takes only that down."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from medattn_edge.process import Child, ChildLost, serve

_TIMEOUT_S = 8.0  # for all packages together


@dataclass(frozen=True)
class PackageReport:
    """What importing a package came to.

    Attributes:
        error: why it cannot be imported; empty when it can.
        facts: JSON values that it says of itself, see `_FACTS`.
        timed_out: whether it did not answer in time, which a busy host explains as well as a package that hangs.
    """

    error: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    timed_out: bool = False

    @property
    def fault(self) -> str:
        """What is wrong with it, in words that follow its name; empty where it answered."""
        if self.timed_out:
            return f"gave {self.error}: this host is busy, or it hangs"
        return f"is broken: {self.error}" if self.error else ""


def probe(packages: Iterable[str], timeout_s: float = _TIMEOUT_S) -> dict[str, PackageReport]:
    """Import every package, each in a fresh process and all at once; never raises, whatever they do.

    Args:
        packages: as they are imported.
        timeout_s: the limit for all of them together, in s.
    """
    names, end = list(packages), time.monotonic() + timeout_s
    if not names:
        return {}
    with ThreadPoolExecutor(len(names)) as pool:
        reports = pool.map(lambda name: _report(name, end, timeout_s), names)
        return dict(zip(names, reports, strict=True))


def _report(name: str, end: float, timeout_s: float) -> PackageReport:
    child = Child(__name__, quiet=True, poll_s=0.1)
    try:
        reply, _ = child.ask({"do": "import", "package": name}, timeout_s=max(0.1, end - time.monotonic()))
    except ChildLost as lost:
        if lost.timed_out:
            return PackageReport(f"no answer within {timeout_s:g} s", timed_out=True)
        return PackageReport(f"the process that imported it {lost.how}")
    finally:
        child.close()
    return PackageReport(**reply)


def _torch(torch: Any) -> dict[str, Any]:
    return {"cuda": torch.version.cuda, "cuda_available": torch.cuda.is_available()}


def _onnxruntime(ort: Any) -> dict[str, Any]:
    return {"providers": ort.get_available_providers()}


def _openvino(ov: Any) -> dict[str, Any]:
    core = ov.Core()
    devices = list(core.available_devices)
    default = core.get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name() if "CPU" in devices else ""
    return {"devices": devices, "default_inference_precision": default}


def _pydicom(pydicom: Any) -> dict[str, Any]:
    """Which of the decoders that are installed can open each kind of compression."""
    kinds = {"RLE": "5", "JPEG": "4.51", "JPEG lossless": "4.70", "JPEG-LS": "4.80", "JPEG 2000": "4.90"}
    decoders = importlib.import_module("pydicom.pixels").get_decoder
    able = {kind: decoders(f"1.2.840.10008.1.2.{end}").available_plugins for kind, end in kinds.items()}
    return {"decoders": {kind: list(names) for kind, names in able.items()}}


def _nothing(package: Any) -> dict[str, Any]:
    return {}


_FACTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "torch": _torch,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "pydicom": _pydicom,
}


def main(descriptor: int) -> NoReturn:
    """Import a package for the process at the other end of a socket, given by its file descriptor."""
    serve(descriptor, {"import": lambda request, _: (asdict(report_of(request["package"])), ())})


def report_of(name: str) -> PackageReport:
    """Import a package here, and ask it; for a process that may be lost."""
    # openvino and nncf report to a web service through this package at import: see backends/openvino/library.py.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        return PackageReport(facts=_FACTS.get(name, _nothing)(importlib.import_module(name)))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a broken package may raise anything
        first = (str(error).strip().splitlines() or [""])[0]
        return PackageReport(f"{type(error).__name__}: {first}")
