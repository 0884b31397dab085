"""What a checkpoint says of itself: schemas, settings and errors, each limit itself and the next value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from medattn_edge.errors import CheckpointError, IntegrityError, UsageError
from medattn_edge.models import build, checkpoint
from medattn_edge.models.checkpoint_file import _damaged, read_file
from medattn_edge.spec import ModelSpec

SPEC = ModelSpec("attention-unet-monai", 1, ("background", "lung"), (16, 24), (2, 2),
                 config={"dims": 2, "channels": [2, 4]})  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    checkpoint.save(tmp_path / "model.safetensors", build(SPEC), SPEC, notes={"dice": 0.9})
    return tmp_path / "model.safetensors"


def facts_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        facts: dict[str, Any] = json.loads(file.metadata()["medattn_edge"])
    return facts


def with_facts(path: Path, **changes: Any) -> Path:
    facts = {key: value for key, value in (facts_of(path) | changes).items() if value is not None}
    save_file(load_file(path), path, metadata={"medattn_edge": json.dumps(facts)})
    return path


def test_a_file_says_its_schema_spec_notes_and_tools(path: Path) -> None:
    facts = facts_of(path)
    assert (facts["schema"], facts["notes"]) == (1, {"dice": 0.9})
    assert ModelSpec.from_json(facts["spec"]) == SPEC
    assert set(facts) == {"schema", "spec", "notes", "tools"}
    loaded = checkpoint.load(path)
    assert (loaded.layout, loaded.foreign, loaded.remarks, loaded.reading) == ("medattn_edge", False, (), {})
    assert not loaded.network.training


@pytest.mark.parametrize(("schema", "error"), [(0, None), (1, None), (2, IntegrityError), ("1", CheckpointError)])
def test_a_schema_up_to_our_own_is_read(path: Path, schema: Any, error: type[Exception] | None) -> None:
    with_facts(path, schema=schema)
    if error is None:
        assert checkpoint.load(path).spec == SPEC
    else:
        with pytest.raises(error) as caught:
            checkpoint.load(path)
        assert "schema" in str(caught.value)


def test_notes_may_be_missing_and_nothing_else(path: Path) -> None:
    assert checkpoint.load(with_facts(path, notes=None)).notes == {}
    with pytest.raises(CheckpointError, match="facts"):
        checkpoint.load(with_facts(path, spec=None))


def test_settings_that_are_the_files_own_are_no_change(path: Path) -> None:
    assert checkpoint.load(path, config={"dims": 2}).spec == SPEC
    with pytest.raises(CheckpointError, match="was trained with the settings"):
        checkpoint.load(path, config={"dims": 3})
    with pytest.raises(UsageError, match="no choice"):
        checkpoint.load(path, weights="ema")
    with pytest.raises(CheckpointError, match="is a checkpoint of attention-unet-monai"):
        checkpoint.load(path, network="danet-2d")
    assert checkpoint.load(path, network="attention-unet-monai").spec == SPEC


def test_what_old_files_lack_starts_at_zero_and_everything_else_is_asked_for(path: Path) -> None:
    state = load_file(path)
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    assert counters
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({key: value for key, value in state.items() if key not in counters}, path, metadata=metadata)
    loaded = checkpoint.load(path).network.state_dict()
    assert all(loaded[key].item() == 0 for key in counters)
    for lost in ("bias", "running_mean"):
        key = next(key for key in state if key.endswith(lost))
        save_file({name: value for name, value in state.items() if name != key}, path, metadata=metadata)
        with pytest.raises(CheckpointError, match="does not fit"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("one\ntwo"), "one"), (RuntimeError("\n one\n two"), "one"), (OSError("broken"), "broken"),
        (RuntimeError(""), "it is cut short, damaged or something else"),
        (KeyError("x"), "it is cut short, damaged or something else"),
        (type("SafetensorError", (Exception,), {})("bad header"), "bad header"),
    ],
    ids=["two lines", "blank line", "system", "nothing", "another", "safetensors"],
)  # fmt: skip
def test_a_damaged_file_is_told_in_one_line(error: Exception, reason: str) -> None:
    assert _damaged(Path("a.pth"), error).found == f"a.pth cannot be read: {reason}"


@pytest.mark.parametrize("protocol", [2, 4])
def test_only_what_is_about_code_is_called_code(tmp_path: Path, protocol: int) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}, "date": Path("a")}, tmp_path / "plain.pth")
    content, metadata = read_file(tmp_path / "plain.pth")
    assert metadata == {}
    assert content["state_dict"]["a"].tolist() == [1, 1]
    torch.save({"code": pytest.raises}, tmp_path / "code.pth", pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match="pickled Python objects"):
        read_file(tmp_path / "code.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "plain.pth").read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_file(tmp_path / "cut.pth")
