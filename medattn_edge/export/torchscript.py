"""Network -> TorchScript: scripted, not traced, so that every size that the network takes still works."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from torch import nn

from medattn_edge.backends.torchscript import SUFFIX, TorchScriptSession
from medattn_edge.deprecations import torchscript_is_deprecated
from medattn_edge.export.exporter import Exporter, ExportSettings, Written
from medattn_edge.spec import ModelSpec


def write(module: nn.Module, spec: ModelSpec, settings: ExportSettings, path: Path) -> Written:
    """Script, freeze and save a module in evaluation mode; any batch size will do."""
    with torchscript_is_deprecated():
        frozen = torch.jit.freeze(torch.jit.script(module))
        frozen.save(str(path))
    kinds = Counter(node.kind() for node in frozen.inlined_graph.nodes() if node.kind().startswith("aten::"))
    return Written(operators=dict(sorted(kinds.items())))


EXPORTER = Exporter(
    name="torchscript",
    suffixes=(SUFFIX,),
    extra="export",
    packages=("torch",),
    write=write,
    session=TorchScriptSession,
)
