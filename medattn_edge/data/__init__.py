"""Data that comes with the package, to try everything with: two small checkpoints and an artifact.

README.md says how they were made. They are engineering examples, trained on one subject, and not for clinical use.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def shipped_checkpoints() -> dict[str, Path]:
    """Name without suffix -> file, one per network family, ordered by name."""
    folder = Path(str(files(__name__)))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def shipped_artifact() -> Path:
    """One of them as ONNX in FP16, with its manifest, for hosts without torch."""
    return Path(str(files(__name__))) / "lungs-attention-unet-2d.fp16.onnx"
