"""The benchmarks can be found and name what they measure; how fast they are is not a test's business."""

from __future__ import annotations

import os
import subprocess
import sys

from cases import CASES

from tests.support import ROOT


def test_every_case_is_collected() -> None:
    command = [sys.executable, "-m", "pytest", "benchmarks", "--collect-only", "-q", "-p", "no:cacheprovider"]
    # `make bench` runs alone: a worker's own variables would tell the child that it shares the machine.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    for case in CASES:
        assert f"[{case.name}]" in done.stdout
        assert "unet" in case.name or "self-guided" in case.name
