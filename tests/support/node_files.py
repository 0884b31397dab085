"""Configurations of nodes, as files, and an artifact that is small enough to be made a thousand times."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medattn_edge.artifact import Manifest, manifest_path, sha256
from medattn_edge.spec import ModelSpec


def make_artifact(path: Path, channels: Sequence[str] = (), count: int = 1, modality: str = "") -> Path:
    """A file with a manifest that fits it; no runtime would open it. channels, count: of its input."""
    path.write_bytes(b"no network, but whole")
    count = len(channels) or count
    labels, patch, stride, names = ("background", "organ"), (32, 32), (4, 4), tuple(channels)
    spec = ModelSpec("attention-unet-monai", count, labels, patch, stride, channels=names, modality=modality)
    manifest = Manifest(spec, "fp32", sha256(path), "c" * 64, "onnx", 1, {}, {}, {}, 1, 0.0)
    manifest_path(path).write_text(json.dumps(manifest.to_json()))
    return path


def plain(folder: Path) -> dict[str, Any]:
    """Sections that work: a listener, a watched folder, one model, a folder and an archive. The artifact is made."""
    if not (folder / "net.onnx").exists():
        make_artifact(folder / "net.onnx")
    return {
        "node": {"root": "root"},
        "receive": {"calling_ae": ["CT1"]},
        "watch": {"folder": "incoming"},
        "model": [{"name": "lungs", "artifact": "net.onnx"}],
        "destination": [
            {"name": "shelf", "folder": "results"},
            {"name": "pacs", "host": "pacs.example", "port": 104, "ae_title": "ARCHIVE"},
        ],
    }


def write(folder: Path, sections: Mapping[str, Any]) -> Path:
    """node.toml; a list of mappings is an array of tables, and a section that is None is left out."""
    lines: list[str] = []
    for name, tables in sections.items():
        several = isinstance(tables, Sequence)
        for table in () if tables is None else tables if several else (tables,):
            lines.append(f"[[{name}]]" if several else f"[{name}]")
            # JSON's texts, numbers, truths and lists are TOML's.
            lines += [f"{key} = {json.dumps(value, default=str)}" for key, value in table.items()]
    path = folder / "node.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
