"""Network -> TorchScript: scripted, not traced, so that every size that the network takes still works."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from pathlib import Path

import torch
from torch import nn

from medattn_edge.backends.torch.deprecations import torchscript_is_deprecated
from medattn_edge.backends.torch.torchscript import SUFFIX, TorchScriptSession
from medattn_edge.exporters.exporter import Exporter, ExportSettings, Written
from medattn_edge.spec import ModelSpec


def write(module: nn.Module, spec: ModelSpec, settings: ExportSettings, path: Path) -> Written:
    """Script, freeze and save a module in evaluation mode; any batch size will do."""
    with torchscript_is_deprecated():
        frozen = torch.jit.freeze(torch.jit.script(module))
        archive = io.BytesIO()
        torch.jit.save(frozen, archive)
    _write_without_sources(archive, path)
    kinds = Counter(node.kind() for node in frozen.inlined_graph.nodes() if node.kind().startswith("aten::"))
    return Written(operators=dict(sorted(kinds.items())))


def _write_without_sources(archive: io.BytesIO, path: Path) -> None:
    """Leave out the debug records, which hold the paths and the sources of this machine, and the id made from them.

    Python writes the file, so that a full disk is an OSError and not torch's own.
    """
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(path, "w") as kept:
        for record in whole.infolist():
            if not record.filename.endswith((".debug_pkl", ".data/serialization_id")):
                kept.writestr(zipfile.ZipInfo(record.filename), whole.read(record))


EXPORTER = Exporter(
    name="torchscript",
    suffixes=(SUFFIX,),
    extra="export",
    packages=("torch",),
    write=write,
    session=TorchScriptSession,
)
