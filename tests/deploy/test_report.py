"""A release carries the evidence of its file, or says why not; what cannot be drawn is said before the work."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.deploy import DeployInputs, deploy, plan_deployment
from medattn_edge.errors import MissingDependency
from medattn_edge.release import verify
from tests.deploy.conftest import QUICK

Inputs = Callable[..., DeployInputs]


@pytest.mark.slow
def test_the_release_has_a_report_of_the_chosen_file_that_passed(inputs_of: Inputs, tmp_path: Path) -> None:
    deploy(plan_deployment(inputs_of(), replace(QUICK, report=True)), tmp_path / "release")
    release = verify(tmp_path / "release")
    assert {"report.html", "report.json"} <= set(release.manifest.files)
    told = json.loads((tmp_path / "release" / "report.json").read_text())
    assert told["verdict"] == "pass"
    _says_the_same(told, json.loads((tmp_path / "release" / "candidates.json").read_text()))
    page = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", (tmp_path / "release" / "report.html").read_text())
    assert "fp32.onnx" in page
    assert "Doe" not in page
    assert "Doe" not in json.dumps(told)


def _says_the_same(report: dict[str, Any], stages: dict[str, Any]) -> None:
    """The report is of the comparison and of the measurement that the file was chosen by, to the last digit."""
    rows = stages["stages"]["measure"]["rows"]
    shown = [{key: value for key, value in one.items() if key != "samples_ms"} for one in report["latency"]["rows"]]
    assert [{**one, "deadline_ms": None, "miss_rate": None} for one in rows] == shown
    (chosen,) = [one for one in stages["candidates"] if one["verdict"] == "chosen"]
    timed = next(one for one in report["latency"]["rows"] if one["artifact"] == chosen["candidate"])
    assert (timed["p50_ms"], timed["p99_ms"]) == (chosen["p50_ms"], chosen["p99_ms"])
    assert len(timed["samples_ms"]) == timed["rounds"]
    (judged,) = stages["stages"][f"gate-{chosen['candidate']}"]["rows"]
    runs = [case["runs"][0] for case in report["cases"]]
    assert [one["sqnr_db"] for one in runs] == [one["sqnr_db"] for one in judged["cases"]]
    assert [{label["label"]: label["dice"] for label in one["labels"]} for one in runs] == [
        one["dice"] for one in judged["cases"]
    ]


@pytest.mark.slow
def test_without_a_report_it_is_said(inputs_of: Inputs, tmp_path: Path) -> None:
    lines: list[str] = []
    deploy(plan_deployment(inputs_of(), QUICK), tmp_path / "release", say=lines.append)
    assert "no report, as asked" in lines
    assert "report.html" not in verify(tmp_path / "release").manifest.files


def test_what_cannot_draw_a_report_says_so_before_the_first_stage(
    inputs_of: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = importlib.import_module("medattn_edge.evidence.gather")._PACKAGES
    monkeypatch.setitem(packages, "no_such_package", "no_such_package")
    with pytest.raises(MissingDependency) as error:
        deploy(plan_deployment(inputs_of(), replace(QUICK, report=True)), tmp_path / "release")
    assert error.value.hint.endswith("; or --no-report")
    assert not list(tmp_path.iterdir())
