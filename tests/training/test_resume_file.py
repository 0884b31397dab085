"""The file that a training resumes from: whether it is finished is read without its tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medattn_edge.errors import CheckpointError
from medattn_edge.training.resume import EPOCHS, Progressed, is_finished, read_resume, write_resume

COUNTED = Path("/proc/self/io")


@pytest.fixture
def network() -> torch.nn.Linear:
    return torch.nn.Linear(4, 2, bias=False)


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_training_is_finished_when_all_of_its_epochs_are_done(
    network: torch.nn.Linear, tmp_path: Path, done: int
) -> None:
    path, optimiser = tmp_path / "a.resume", torch.optim.SGD(network.parameters())
    identity = {EPOCHS: 2, "seed": 1}
    write_resume(path, network, optimiser, Progressed(done, {}), identity)
    assert is_finished(path) == (done >= 2)
    assert read_resume(path, network, optimiser, identity) == (Progressed(done, {}), 2)


@pytest.mark.skipif(not COUNTED.is_file(), reason="this system does not count what a process reads")
def test_whether_it_is_finished_is_read_without_the_tensors(network: torch.nn.Linear, tmp_path: Path) -> None:
    path, optimiser = tmp_path / "a.resume", torch.optim.SGD(network.parameters())
    network.weight.data = torch.ones(1 << 20, 4)  # 16 MiB
    write_resume(path, network, optimiser, Progressed(2, {}), {EPOCHS: 2})
    before = bytes_read()
    assert is_finished(path)
    assert bytes_read() - before < 1 << 20
    read_resume(path, network, optimiser, {EPOCHS: 2})
    assert bytes_read() - before > 16 << 20, "and what is counted counts"


def test_what_is_no_such_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.resume"
    for content in (b"", b"nothing of the kind", b"PK" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read") as error:
            is_finished(path)
        assert "rm " in error.value.hint


def bytes_read() -> int:
    """What this process has read from files so far."""
    [line] = [line for line in COUNTED.read_text().splitlines() if line.startswith("rchar:")]
    return int(line.split()[1])
