"""Every case under pytest-benchmark: `make bench`; with `-m gpu` the engines on an NVIDIA GPU (`gpu.py` has every way).

The rows are what `suite.py` measures and writes; pytest-benchmark keeps them as extra information, and times the
fastest of our own rows by itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from artifacts import Files
from cases import CASES, OURS, Case, Form
from suite import FOLDER, ON_CPU, ON_GPU, RESULTS, not_here, run, table, write

from medattn_edge.backends import open_session
from medattn_edge.evaluation import BenchSettings
from medattn_edge.host import hardware

DURATION_S = float(os.environ.get("BENCH_DURATION_S", "10"))
ROUNDS = 5


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rows_on_the_cpu(case: Case, benchmark: Any) -> None:
    measured(case, ON_CPU, benchmark, RESULTS / f"{case.name}.json")


@pytest.mark.gpu
@pytest.mark.skipif(not hardware.gpus(), reason="no NVIDIA GPU with a driver")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rows_on_the_gpu(case: Case, benchmark: Any) -> None:
    measured(case, ON_GPU, benchmark, RESULTS / f"{case.name}-gpu.json")


def measured(case: Case, forms: Sequence[Form], benchmark: Any, path: Path) -> None:
    if reason := not_here(case):
        pytest.skip(f"not measured: {reason}")
    document = run(case, forms, BenchSettings(duration_s=DURATION_S, timeout_s=1800))
    write(document, path)
    print(f"\n{table(document)}")
    benchmark.extra_info["rows"] = document["rows"]
    ours = {form.name: form for form in (*OURS, *forms)}
    able = [row for row in document["rows"] if row["p50_ms"] is not None and row["artifact"] in ours]
    assert able, "no row of ours agrees with eager"
    form = ours[min(able, key=lambda row: row["p50_ms"])["artifact"]]
    files = Files(case, FOLDER)
    threads = document["environment"]["threads"]
    with open_session(files.make(form.made), backend=form.backend, device=form.device, threads=threads) as session:
        benchmark.pedantic(session.run, (files.patches.held_out[: case.batch],), rounds=ROUNDS, warmup_rounds=1)
