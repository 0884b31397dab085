"""ONNX Runtime gathers events about its use, unless it is told not to before it is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

LOAD = "import onnxruntime; onnxruntime.get_available_providers()"


def left_in_the_home_of(program: str, home: Path) -> list[Path]:
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment = {**environment, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [path for path in home.rglob("*") if path.is_file()]


def test_onnx_runtime_keeps_no_events_and_no_identity_where_our_package_was_imported_first(tmp_path: Path) -> None:
    assert left_in_the_home_of(f"import medattn_edge; {LOAD}", tmp_path / "ours") == []
    if not left_in_the_home_of(LOAD, tmp_path / "plain"):
        pytest.skip("this release of onnxruntime gathers nothing by itself")


def test_a_child_process_is_told_as_well(tmp_path: Path) -> None:
    child = f"import subprocess, sys, medattn_edge; subprocess.run([sys.executable, '-c', {LOAD!r}], check=True)"
    assert left_in_the_home_of(child, tmp_path / "child") == []
