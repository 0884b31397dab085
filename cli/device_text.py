"""What is told of the device that a network ran on: which, in which runtime, and who chose it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CUDA = "CUDAExecutionProvider"


def device_text(facts: Mapping[str, Any]) -> str:
    """Such as `cpu in onnxruntime (--device auto)`, from the facts of a session; what `auto` did not take is named."""
    if "server" in facts:
        return f"the server {facts['server']}, version {facts['version']} of {facts['model']} in {facts['backend']}"
    device, backend = str(facts.get("device", "?")), str(facts.get("backend", "?"))
    if facts.get("requested_device") != "auto":
        return f"{device} in {backend}"
    more = "; this ONNX Runtime has CUDA, too: --device cuda:0" if _CUDA in facts.get("available_providers", ()) else ""
    return f"{device} in {backend} (--device auto{more if device == 'cpu' else ''})"
