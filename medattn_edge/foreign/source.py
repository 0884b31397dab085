"""Which files are networks from elsewhere, by what they hold: .pt and .pth name weights and programs alike."""

from __future__ import annotations

import zipfile
from pathlib import Path

ONNX, TORCHSCRIPT, EXPORTED, MODULE = "onnx", "torchscript", "exported", "module"
TITLES = {
    ONNX: "ONNX file",
    TORCHSCRIPT: "TorchScript program",
    EXPORTED: "exported program",
    MODULE: "module of your own",
}
_SUFFIXES = {".onnx": ONNX, ".pt2": EXPORTED, ".ts": TORCHSCRIPT, ".torchscript": TORCHSCRIPT}


def kind_of(path: Path) -> str | None:
    """ONNX, TORCHSCRIPT or EXPORTED; None for weights without a program, and for what is no such file."""
    path = Path(path)
    if path.suffix.lower() == ".onnx":
        return ONNX
    if path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        inner = {name.partition("/")[2] or name for name in names}
        if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
            return TORCHSCRIPT
        if any(name.endswith(("models/model.json", "serialized_exported_program.json")) for name in names):
            return EXPORTED
        return None
    return _SUFFIXES.get(path.suffix.lower())


def is_foreign(path: Path, network: str = "") -> bool:
    """Whether `read_foreign` reads a source, and not `models.checkpoint.load`.

    Args:
        path: of the source.
        network: as --network has it; `package.module:build` names code of the user's own.
    """
    return ":" in network or kind_of(path) is not None
