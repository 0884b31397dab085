"""Windows and macOS: what segments there runs without anything that only Linux has; the node says that it wants it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.atomic import locked
from medattn_edge.errors import HostError
from medattn_edge.host import system
from medattn_edge.process import starting
from medattn_edge.volume import Volume
from tests.support.scans import write_nifti

ROOT = Path(__file__).parents[2]
WITHOUT = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests/support/no_posix'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}

# One interpreter for all of it: a command's own tests know what else it does.
PROGRAM = """
import contextlib, io, json, sys
from pathlib import Path

import medattn_edge as me
from medattn_edge.cli import app
from medattn_edge.cohort.folder import CohortFolder
from medattn_edge.errors import MedattnError
from medattn_edge.release import write_release

answers, (artifact, scan, folder) = {}, sys.argv[1:]


def run(*words):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            app(list(words), standalone_mode=False)
        except MedattnError as error:
            return {"code": error.exit_code, "found": error.found, "hint": error.hint}
    return json.loads(out.getvalue())


def infer(network, output, *more):
    return run("infer", network, scan, "-o", f"{folder}/{output}", "--json", *more)


answers["infer"] = infer(artifact, "labels.nii.gz", "--batch", "auto")
answers["cohort"] = infer(artifact, "out/")
with CohortFolder(Path(folder, "out")).opened():
    answers["held"] = infer(artifact, "out/", "--resume")
answers["left"] = sorted(path.name for path in Path(folder, "out").iterdir())
write_release([Path(artifact)], Path(folder, "release"), name="a", version=1)
answers["release"] = infer(f"{folder}/release", "again.nii.gz")
answers["inspect"] = run("inspect", artifact, "--json")
answers["compare"] = run("compare", artifact, artifact, scan, "--json")
answers["doctor"] = run("doctor", "--json")
with me.load(artifact) as network:
    answers["load"] = network(scan).volumes_ml
answers["node"] = [run("node", "--config", "node.toml"), run("node", "init", artifact, "-o", f"{folder}/node.toml")]
answers["torch"] = "torch" in sys.modules
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    voxels = np.random.default_rng(0).normal(size=(3, 40, 36)).astype(np.float32)
    return write_nifti(tmp_path_factory.mktemp("scan") / "scan.nii.gz", Volume(voxels, np.diag((2.0, 3.0, 4.0, 1.0))))


@pytest.mark.skipif(find_spec("torch") is None, reason="torch makes the artifact")
def test_everything_but_the_node_runs_without_what_only_posix_has(
    small_artifact: Path, scan: Path, tmp_path: Path
) -> None:
    words = [sys.executable, "-c", PROGRAM, str(small_artifact), str(scan), str(tmp_path)]
    done = subprocess.run(words, env=WITHOUT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    volumes = answers["infer"]["volumes_ml"]
    assert any(volumes.values())
    assert answers["load"] == answers["release"]["volumes_ml"] == pytest.approx(volumes)
    assert [one["case"] for one in answers["cohort"]["done"]] == ["scan"]
    assert (answers["held"]["code"], "another run" in answers["held"]["found"]) == (2, True)
    assert answers["left"] == ["failures.csv", "left_out.csv", "scan.json", "scan_labels.nii.gz", "volumes.csv"]
    assert answers["inspect"]["inputs"]
    assert answers["compare"]["verdict"] == "pass"
    assert answers["doctor"]["backends"]
    for refused in answers["node"]:
        assert refused["code"] == 3
        assert "no flock, no fsync of folders, no SIGHUP" in refused["found"]
    assert not (tmp_path / "node.toml").exists()
    assert not answers["torch"]


def test_the_interpreter_of_that_test_lacks_what_it_says(tmp_path: Path) -> None:
    told = "import os, sys; print([sys.modules[n] for n in ('fcntl', 'resource')], hasattr(os, 'posix_fallocate'))"
    opened = "\ntry: os.open('.', 0)\nexcept PermissionError: print('no folder')\nprint(os.path.exists('/proc'))"
    done = subprocess.run(
        [sys.executable, "-c", told + opened], env=WITHOUT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["[None, None] False", "no folder", "False"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_lock_keeps_another_out_and_goes_with_the_block(kind: str, tmp_path: Path) -> None:
    place = tmp_path if kind == "folder" else tmp_path / "lock"
    with locked(place):
        with pytest.raises(BlockingIOError), locked(place):
            pytest.fail("it was held")
        with pytest.raises(BlockingIOError), locked(place):
            pytest.fail("and still is, after somebody tried")
    with locked(place, wait=True):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ([] if kind == "folder" else ["lock"])


def test_only_who_shows_the_secret_becomes_the_child() -> None:
    secret, nobody = b"s" * 32, subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with socket.create_server(("127.0.0.1", 0)) as server, nobody:
        address = server.getsockname()

        def visit() -> None:
            for shown in (b"x" * 32, b"s" * 31, secret):
                with socket.create_connection(address, 20) as visitor:
                    visitor.sendall(shown)
                    visitor.shutdown(socket.SHUT_WR)
                    visitor.recv(1)

        visitor = threading.Thread(target=visit)
        visitor.start()
        starting._accepted(server, nobody, secret).close()
        visitor.join()
        nobody.communicate(b"\n")
        with pytest.raises(HostError, match=r"does not connect(.|\n)*127\.0\.0\.1"):
            starting._accepted(server, nobody, secret)


@pytest.mark.parametrize(
    "name",
    ["a:b", "what?.nii.gz", "a\\b", "a|b", 'a"b', "<a>", "a*", "a\x1f", "NUL", "nul.nii.gz", "Com1.txt", "a.", "a "],
)
def test_a_name_that_windows_does_not_take_is_known(name: str) -> None:
    assert system.unfit_for_windows(name)


@pytest.mark.parametrize("name", ["scan_labels.nii.gz", "ä µ.nrrd", ".hidden", "null", "com.txt", "com10", "a-b_c(1)"])
def test_a_name_that_windows_takes_is_let_through(name: str) -> None:
    assert not system.unfit_for_windows(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "of",
    [
        ("--platform", "win32"),
        # numpy's stubs are for 3.11 and newer, and mean Any to mypy where they use what 3.10 lacks.
        (
            "--platform",
            "darwin",
            "--python-version",
            "3.10",
            "--disable-error-code",
            "no-any-return",
            "--no-warn-unused-ignores",
        ),
    ],
    ids=["win32", "darwin and 3.10"],
)
def test_the_types_hold_on_other_systems_and_on_the_oldest_python(of: tuple[str, ...], tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mypy", *of, "--cache-dir", tmp_path, "-p", "medattn_edge"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout
