"""What a command loads before it can begin, in modules: milliseconds are another machine's business."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.artifact import manifest_path, sha256
from medattn_edge.backends import open_session
from medattn_edge.backends.openvino.model import CACHE
from medattn_edge.cli import _COMMANDS
from medattn_edge.errors import HostError

BARE = 150  # modules of Python itself, with an editable installation's own

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
HEAVY = {
    "IPython", "PIL", "highdicom", "matplotlib", "monai", "nibabel", "nncf", "nrrd", "numpy", "onnx", "onnxruntime",
    "onnxscript", "openvino", "pandas", "pydicom", "pynetdicom", "safetensors", "scipy", "slicerio", "sympy",
    "tensorrt", "tensorrt_rtx", "torch",
}  # fmt: skip


def modules(code: str, *words: object) -> set[str]:
    """The names of all modules that code leaves in a fresh process."""
    told = "\nimport sys\nsys.stderr.write('\\n' + ' '.join(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code + told, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.rsplit("\n", 1)[-1].split())


def loaded(code: str, *words: object) -> tuple[set[str], int]:
    """The heavy packages that code leaves in a fresh process, and how many modules there are in total."""
    names = modules(code, *words)
    return HEAVY & {name.partition(".")[0] for name in names}, len(names)


COMMAND = """
import sys
sys.argv = ["medattn-edge", *sys.argv[1:]]
from medattn_edge.cli import main
try:
    main()
except SystemExit as left:
    assert left.code == 0, left.code
"""


def test_the_package_alone_loads_next_to_nothing() -> None:
    heavy, count = loaded("import medattn_edge")
    assert heavy == set()
    assert count < BARE + 20


def commands_of(names: set[str]) -> set[str]:
    """The commands whose modules are loaded."""
    return {name for name in _COMMANDS if f"medattn_edge.cli.{name}" in names}


@pytest.mark.parametrize("name", _COMMANDS)
def test_the_help_of_a_command_loads_that_command_and_no_other(name: str) -> None:
    names = modules(COMMAND, name, "--help")
    assert commands_of(names) == {name}
    assert HEAVY & names == set()
    assert "pydantic" not in names  # with it, Typer makes values of what was typed: nothing was
    assert len(names) < BARE + 250  # typer and rich


def test_the_help_of_all_has_a_line_for_each_and_loads_nothing_heavy() -> None:
    names = modules(COMMAND, "--help")
    assert commands_of(names) == set(_COMMANDS)  # for their first lines
    assert HEAVY & names == set()
    assert len(names) < BARE + 290


def test_a_word_that_is_no_command_loads_none_and_is_told_the_nearest() -> None:
    code = COMMAND.replace("left.code == 0", "left.code == 2")
    assert commands_of(modules(code, "infr")) == set()
    done = subprocess.run([sys.executable, "-c", code, "infr"], capture_output=True, text=True, check=False)
    assert "Did you mean 'infer'?" in done.stderr


def test_an_artifact_is_inspected_by_its_manifest_with_neither_numpy_nor_a_runtime(small_artifact: Path) -> None:
    shown, written = (modules(COMMAND, "inspect", small_artifact, *words) for words in ((), ("--json",)))
    assert HEAVY & shown == HEAVY & written == set()
    assert commands_of(shown) == {"inspect"}
    assert len(shown) < BARE + 260
    assert not any(name.partition(".")[0] == "rich" for name in written)


@pytest.mark.parametrize(
    ("backend", "allowed"),
    [("onnxruntime", {"numpy", "onnxruntime"}), pytest.param("openvino", {"numpy", "openvino"}, marks=needs_openvino)],
)
def test_opening_an_artifact_loads_its_runtime_and_no_other(
    small_artifact: Path, backend: str, allowed: set[str]
) -> None:
    code = """
import sys
from medattn_edge.artifact import manifest_path, sha256
from medattn_edge.backends import open_session
import numpy as np
with open_session(sys.argv[1], backend=sys.argv[2], threads=1) as session:
    session.run(np.zeros((1, 1, 32, 32), np.float32))
"""
    assert loaded(code, small_artifact, backend)[0] == allowed


def test_a_segmentation_loads_one_runtime_and_one_format(small_artifact: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "scan.npz", voxels=np.random.default_rng(0).random((2, 32, 32)), affine=np.eye(4))
    heavy, count = loaded(COMMAND, "infer", small_artifact, tmp_path / "scan.npz", "-o", tmp_path / "labels.npz")
    assert heavy == {"numpy", "onnxruntime"}
    assert count < BARE + 900


OPENED = """
import hashlib, sys
import numpy as np
from medattn_edge.artifact import manifest_path, sha256
from medattn_edge.backends import open_session
patches = np.random.default_rng(0).normal(size=(2, 1, 32, 32)).astype(np.float32)
with open_session(sys.argv[1], backend="openvino", threads=1) as session:
    answer = hashlib.sha256(session.run(patches).tobytes()).hexdigest()
    sys.stdout.write(f"{session.facts['loaded_from_cache']} {session.facts['computed']} {answer}")
"""


def opened(artifact: Path, cache: Path | None) -> tuple[str, str]:
    """In a process of its own: whether the model was kept, and what it says."""
    variables = {name: value for name, value in os.environ.items() if name != CACHE}
    done = subprocess.run(
        [sys.executable, "-c", OPENED, str(artifact)],
        env=variables | ({} if cache is None else {CACHE: str(cache)}), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    hit, answer = done.stdout.split(" ", 1)
    return hit, answer


@needs_openvino
def test_a_model_that_was_kept_is_found_and_says_the_same_bits(small_artifact: Path, tmp_path: Path) -> None:
    plain = opened(small_artifact, None)
    first, second = opened(small_artifact, tmp_path / "kept"), opened(small_artifact, tmp_path / "kept")
    assert [plain[0], first[0], second[0]] == ["None", "False", "True"]
    assert plain[1] == first[1] == second[1]
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700
    # By content: a copy elsewhere has the same folder. A file that was cut is compiled again, and not believed.
    [folder] = (tmp_path / "kept").iterdir()
    for blob in folder.iterdir():
        blob.chmod(0o600)
        blob.write_bytes(blob.read_bytes()[:500])
    assert opened(small_artifact, tmp_path / "kept") == ("False", plain[1])
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [folder.name]


@needs_openvino
def test_another_model_of_the_same_name_is_another_model(
    small_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest's hash decides, not the path and its time."""
    monkeypatch.setenv(CACHE, str(tmp_path / "kept"))
    place = tmp_path / "network.onnx"
    for text, folders in (("one", 1), ("two", 2), ("one", 2)):
        _renamed(small_artifact, place, text)
        os.utime(place, (0, 0))
        with open_session(place, backend="openvino", threads=1):
            pass
        assert len(list((tmp_path / "kept").iterdir())) == folders


def _renamed(source: Path, place: Path, producer: str) -> None:
    """The network with another word in its file, and a manifest that fits."""
    import onnx

    model = onnx.load(source)
    model.producer_name = producer
    onnx.save(model, place)
    told = json.loads(manifest_path(source).read_text())
    manifest_path(place).write_text(json.dumps(told | {"sha256": sha256(place)}))


@needs_openvino
def test_a_folder_that_others_may_write_to_is_refused(
    small_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies there is run as code."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o775)
    monkeypatch.setenv(CACHE, str(tmp_path / "open"))
    with pytest.raises(HostError, match=r"by others(.|\n)*chmod 700"):
        open_session(small_artifact, backend="openvino", threads=1)
    assert list((tmp_path / "open").iterdir()) == []
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE, str(tmp_path / "file"))
    with pytest.raises(HostError, match="no model cache"):
        open_session(small_artifact, backend="openvino", threads=1)
