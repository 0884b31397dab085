"""Latency of every exported form against eager, each figure beside its agreement.

`make bench` prints one row per artifact: the paired ratio to eager (above 1 is faster), its quartiles and the SQNR.
The runtimes share one process here and take turns; absolute times are for orientation only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CASES, Case

from medattn_edge.backends import open_session
from medattn_edge.backends.eager import EagerSession
from medattn_edge.export import export_network, random_patches
from medattn_edge.fusion.batch_norm import fold_batch_norms
from medattn_edge.models import build, network_record
from medattn_edge.models.checkpoint import Checkpoint
from medattn_edge.spec import ModelSpec
from medattn_edge.timing import interleaved

THREADS = 2


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_latency_against_eager(case: Case, benchmark: Any, tmp_path: Path) -> None:
    checkpoint = _checkpoint(case)
    torch.set_num_threads(THREADS)
    patches = random_patches(checkpoint.spec, 1)
    sessions = {"eager": EagerSession(checkpoint.network, checkpoint.spec)}
    sqnr = {"eager": float("inf")}
    for suffix in ("torchscript", "onnx"):
        path = tmp_path / f"{case.name}.{suffix}"
        artifact = export_network(checkpoint, path, {"random": patches}, deployed=fold_batch_norms(checkpoint.network))
        sessions[suffix] = open_session(path, threads=THREADS)
        sqnr[suffix] = artifact.manifest.agreement[0]["sqnr_db"]
    measured = interleaved({name: lambda s=session: s.run(patches) for name, session in sessions.items()}, rounds=9)
    for name, latency in measured.items():
        ratio, (low, high) = latency.ratio_of(measured["eager"])
        row = f"p50 {latency.p50_ms:8.1f} ms, {ratio:.2f}x eager [{low:.2f}, {high:.2f}], SQNR {sqnr[name]:.1f} dB"
        print(f"\n{case.name:24} {name:12} {row}", end="")
        benchmark.extra_info[name] = {"p50_ms": latency.p50_ms, "ratio_to_reference": ratio, "sqnr_db": sqnr[name]}
    benchmark.pedantic(sessions["onnx"].run, (patches,), rounds=5)
    for session in sessions.values():
        session.close()


def _checkpoint(case: Case) -> Checkpoint:
    torch.manual_seed(0)
    record = network_record(case.network)
    with torch.device("meta"):
        stride = record.build({**record.settings, **case.settings}, case.channels, case.classes).stride
    labels = ("background", *(f"class_{index}" for index in range(1, case.classes)))
    spec = ModelSpec(
        network=case.network,
        in_channels=case.channels,
        labels=labels,
        patch=case.patch,
        stride=stride,
        config=case.settings,
    )
    network = build(spec)
    with torch.no_grad():  # gamma starts at 0, which would switch both attentions off
        for name, parameter in network.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.5)
    return Checkpoint(network, spec, "0" * 64, "medattn_edge", foreign=False, notes={})
