"""Killed in every stage, a deployment goes on with that stage, and ends with one whole release."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medattn_edge.deploy import DeployRecipe
from medattn_edge.release import verify

PROGRAM = Path(sys.executable).with_name("medattn-edge")
STAGES = 12
INTO_IT_S = 0.15  # after a stage has said that it begins
QUICK = 1  # the last stage, which is over sooner


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_deployment_that_is_killed_in_every_stage_ends_with_one_release(deployable: Path, tmp_path: Path) -> None:
    scans = [deployable / f"Doe-Jane-{number}.nii.gz" for number in (0, 1)]
    quick = ["--candidate", "fp32.xml", "--threads", "1", "--duration", "0.1", "--tune-duration", "1", "--no-report"]
    command = [PROGRAM, "deploy", deployable / "net.safetensors", *scans, "-o", tmp_path / "release", *quick]
    reached = 0
    for number in range(1, STAGES + 1):
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as child:
            assert child.stderr is not None
            before = 0
            for line in child.stderr:
                before += line.rstrip().endswith(": done before")
                if line.startswith(f"{number}/{STAGES} ") and ": " not in line:
                    break
            time.sleep(INTO_IT_S if number <= STAGES - QUICK else 0.0)
            child.send_signal(signal.SIGKILL)
            child.wait()
        assert before >= reached, f"killed in stage {number}, {reached} had been done"
        reached = number - 1
        if number > STAGES - QUICK and (tmp_path / "release").exists():  # the kill came too late: then it is whole
            assert verify(tmp_path / "release").manifest.default == "fp32.xml"
            return
        assert not (tmp_path / "release").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(": done before") >= STAGES - 1
    release = verify(tmp_path / "release")
    assert release.manifest.default == "fp32.xml"
    stored = DeployRecipe.read(tmp_path / "release" / "deploy.toml")
    assert stored.candidates == ("fp32.xml",)
    assert stored.rewrites
    assert [path.name for path in tmp_path.iterdir()] == ["release"]
