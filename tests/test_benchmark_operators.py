"""Where the time of a file goes is what OpenVINO says of the very model that a session runs."""

from __future__ import annotations

import json
from pathlib import Path

import operator_table
import operators
import pytest
from typer.testing import CliRunner


def test_the_operators_of_a_real_file_are_counted_side_by_side(small_artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    pytest.importorskip("monai", reason="the extra peers is not installed")  # its version stands in the result
    out = tmp_path / "operators-small.json"
    words = [str(small_artifact), "-o", str(out), "--runs", "3", "--threads", "1"]
    app = operators.typer.Typer()
    app.command()(operators.main)
    assert CliRunner().invoke(app, [str(small_artifact), *words]).exit_code == 2
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    (counted,) = json.loads(out.read_text())["files"].values()
    rows = counted["operators"]
    assert "Convolution" in {row["operator"] for row in rows}
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert [row["ms"] for row in rows] == sorted((row["ms"] for row in rows), reverse=True)
    page = operator_table.sections(tmp_path)
    assert "Where the time of small goes" in page
    assert f"| all | {counted['ms']:.1f} |" in page


def test_medians_of_runs_stand_and_what_takes_little_is_summed_up() -> None:
    runs = [{("Convolution", "jit"): ms, ("Add", "ref"): 0.1, ("Relu", "jit"): 0.05} for ms in (9.0, 90.0, 10.0)]
    files = {"a.xml": operators.summed(runs), "b.xml": operators.summed([{("Resize", "ref"): 4.0}])}
    lines = operator_table.table({"files": files}).splitlines()
    assert lines[2:] == [
        "| Convolution (jit) | 10.0 (99%) | - |",
        "| Resize (ref) | - | 4.0 (100%) |",
        "| the rest | 0.2 | 0.0 |",
        "| all | 10.2 | 4.0 |",
    ]
