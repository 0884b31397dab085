"""What every session does by itself: fill a fixed batch, and refuse a process that it was not opened in."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from medattn_edge.backends.session import Patches, Session, filled_runs
from medattn_edge.errors import ShapeError
from medattn_edge.spec import ModelSpec

SPEC = ModelSpec("fake", 1, ("background", "organ"), (4, 4), (1, 1))


class Recording(Session):
    """Logits (patch, -patch) and the map 2 * patch; keeps what it was given."""

    def __init__(self, batch: int | None) -> None:
        super().__init__(SPEC, batch=batch, attention_names=("one",))
        self.runs: list[Patches] = []

    def _run(self, patches: Patches) -> Patches:
        self.runs.append(patches.copy())
        return np.concatenate([patches, -patches], axis=1)

    def _run_with_attention(self, patches: Patches) -> tuple[Patches, Patches]:
        return self._run(patches), 2 * patches


def patches(count: int) -> Patches:
    return np.random.default_rng(count).random((count, 1, 4, 4), dtype=np.float32)


@pytest.mark.parametrize("batch", [None, 1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_any_number_of_patches_is_run_whatever_the_batch(batch: int | None, count: int) -> None:
    session, given = Recording(batch), patches(count)
    before = given.copy()
    logits = session.run_any(given)
    np.testing.assert_array_equal(logits, np.concatenate([given, -given], axis=1))
    np.testing.assert_array_equal(given, before)
    assert {len(run) for run in session.runs} == {batch or count}
    assert len(session.runs) == (1 if batch is None else -(-count // batch))
    for run, other in zip(session.run_any_with_attention(given), (logits, 2 * given), strict=True):
        np.testing.assert_array_equal(run, other)


def test_a_fixed_batch_is_filled_by_its_last_patch() -> None:
    session, given = Recording(3), patches(4)
    session.run_any(given)
    np.testing.assert_array_equal(session.runs[0], given[:3])
    np.testing.assert_array_equal(session.runs[1], given[[3, 3, 3]])
    assert [count for _, count in filled_runs(given, 3)] == [3, 1]


@pytest.mark.parametrize("batch", [None, 3])
def test_no_patch_at_all_is_refused(batch: int | None) -> None:
    with pytest.raises(ShapeError, match="0 patches in one run"):
        Recording(batch).run_any(patches(0))


FORKING = """
import os, sys, warnings
sys.path[:] = {path!r}
warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads, which is what is tried
import numpy as np
from medattn_edge.backends import open_session
from medattn_edge.errors import BackendError
from medattn_edge.models import build, checkpoint
from medattn_edge.spec import ModelSpec

config = {{"dims": 2, "channels": [4, 8, 16]}}
spec = ModelSpec("attention-unet-monai", 1, ("background", "organ"), (32, 32), (4, 4), config=config)
checkpoint.save({file!r}, build(spec), spec)
patches = np.ones((2, 1, 32, 32), np.float32)
session = open_session({file!r}, threads=2)
expected = session.run(patches)
forked = os.fork()
if forked:
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 5
    assert np.array_equal(session.run(patches), expected)
else:
    for run in (session.run, session.run_any):
        try:
            run(patches)
        except BackendError as error:
            assert "forked" in error.found and "forked process" in error.hint
        else:
            os._exit(1)
    os._exit(5)
"""


def test_a_forked_process_is_refused_at_once_instead_of_waiting_for_threads_that_are_not_there(tmp_path) -> None:
    words = FORKING.format(path=sys.path, file=str(tmp_path / "network.safetensors"))
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
