"""An artifact is opened only when it is what its manifest says."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medattn_edge.artifact import SCHEMA, Artifact, Manifest, manifest_path, sha256, tool_versions, writing
from medattn_edge.errors import InputError, IntegrityError, OutputError
from medattn_edge.file_gate import FileGate
from medattn_edge.installation import upgrade_line
from medattn_edge.spec import Intensity, ModelSpec

SPEC = ModelSpec(
    "unet", 1, ("background", "lung"), (64, 48), (16, 16), spacing=(0.7, 0.7), intensity=Intensity.window(-1000, 400)
)
CONTENT = b"the model"
FIELDS = [
    "spec",
    "precision",
    "sha256",
    "parent_sha256",
    "exporter",
    "batch",
    "inputs",
    "outputs",
    "operators",
    "parameters",
    "gflop",
]
REWRITE = {"name": "batch-norm", "title": "folded", "sites": 3, "gflop_saved": 0.0, "mbytes_saved": 1.5}
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def manifest_of(content: bytes = CONTENT, **settings: Any) -> Manifest:
    given_: dict[str, Any] = {
        "spec": SPEC,
        "precision": "fp32",
        "sha256": hashlib.sha256(content).hexdigest(),
        "parent_sha256": "c" * 64,
        "exporter": "onnx",
        "batch": None,
        "inputs": {"image": [-1, 1, 64, 48]},
        "outputs": {"logits": [-1, 2, 64, 48], "attention": [-1, 2, 64, 48]},
        "operators": {"Conv": 3, "Relu": 2},
        "parameters": 1234,
        "gflop": 0.5,
        "attention_maps": ("gate_1", "gate_0"),
        "agreement": ({"input": "random", "sqnr_db": 120.0, "dice": {"lung": 1.0}},),
        "tools": {"python": "3.11.9"},
        "rewrites": (REWRITE,),
    }
    return Manifest(**{**given_, **settings})


def write(folder: Path, content: bytes = CONTENT) -> Path:
    path = folder / "network.onnx"
    with writing(path) as (model, sidecar):
        model.write_bytes(content)
        sidecar.write_text(json.dumps(manifest_of(content).to_json()))
    return path


def write_half(path: Path) -> None:
    with writing(path) as (model, sidecar):
        model.write_bytes(b"new")
        sidecar.write_text("new")
        raise ZeroDivisionError


@given(batch=st.none() | st.integers(1, 64), maps=st.lists(st.text(max_size=5)), gflop=st.floats(0, 1e6))
def test_a_manifest_survives_json(batch, maps, gflop):
    manifest = manifest_of(batch=batch, attention_maps=tuple(maps), gflop=gflop)
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    assert manifest.to_json()["schema"] == SCHEMA


def test_what_was_written_is_read(tmp_path):
    path = write(tmp_path)
    artifact = Artifact.read(path)
    assert (artifact.path, artifact.manifest, artifact.spec) == (path, manifest_of(), SPEC)
    assert manifest_path(path) == tmp_path / "network.onnx.json"
    assert {one.name for one in tmp_path.iterdir()} == {"network.onnx", "network.onnx.json"}


def test_a_path_may_be_a_string(tmp_path):
    assert Artifact.read(str(write(tmp_path))).manifest == manifest_of()


@given(
    field=st.sampled_from([*FIELDS, "attention_maps", "agreement", "tools", "rewrites", "gate", "tiling"]),
    value=ANY_JSON,
)
def test_a_field_of_another_kind_is_refused_or_harmless(field, value):
    def outcome() -> str:
        try:
            return json.dumps(Manifest.from_json({**manifest_of().to_json(), field: value}).to_json())
        except IntegrityError as error:
            return error.hint

    assert outcome()


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_is_missing_is_refused(field):
    values = manifest_of().to_json()
    del values[field]
    with pytest.raises(IntegrityError, match=rf"{field}(.|\n)*export"):
        Manifest.from_json(values)


def test_a_manifest_of_before_there_were_rewrites_is_read_and_what_is_made_of_a_file_has_its_own():
    values = manifest_of().to_json()
    assert values["rewrites"] == [REWRITE]
    del values["rewrites"]
    assert Manifest.from_json(values).rewrites == ()
    assert manifest_of().child(precision="fp16").rewrites == (REWRITE,)


GATE = FileGate(0.99, 0.999, 1.01, ("lung",), {"lung": (5, 6)})


def test_a_gate_survives_json_and_what_is_made_of_a_file_has_it_too():
    manifest = manifest_of(gate=GATE)
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    assert manifest.child(precision="int8").gate == GATE


def test_windows_of_its_own_survive_json_with_those_of_the_checkpoint_and_so_does_what_is_made_of_it():
    assert "tiling" not in manifest_of().to_json()  # older versions read it
    assert manifest_of().reference_spec == SPEC
    tuned = manifest_of(spec=replace(SPEC, overlap=0.25), tiling={"reference_overlap": 0.5})
    again = Manifest.from_json(json.loads(json.dumps(tuned.to_json())))
    assert again == tuned
    assert again.child(precision="int8").reference_spec == SPEC
    for overlap in (1, -0.25, "0.5", math.nan, None):
        with pytest.raises(IntegrityError, match="cannot be read"):
            Manifest.from_json({**tuned.to_json(), "tiling": {"reference_overlap": overlap}})


def test_a_manifest_of_before_there_were_gates_is_read():
    values = manifest_of(gate=GATE).to_json()
    del values["gate"]
    assert Manifest.from_json(values).gate is None


@pytest.mark.parametrize(
    "change",
    [
        {"min_dice": None},
        {"min_dice": 1.5},
        {"min_dice": True},
        {"min_dice": "0.99"},
        {"max_true_dice_share": None},
        {"min_true_dice_share": 1.1},
        {"min_true_dice_share": -0.1},
        {"labels": ["liver"]},
        {"labels": "lung"},
        {"labels": [1]},
        {"label_values": {"liver": [1]}},
        {"label_values": {"lung": 5}},
        {"label_values": {"lung": [-1]}},
        {"label_values": {"lung": [True]}},
        {"label_values": []},
        {"later": 1},
    ],
)
def test_a_gate_that_nothing_could_be_held_to_is_refused(change):
    values = manifest_of(gate=GATE).to_json()
    with pytest.raises(IntegrityError, match="export the checkpoint again"):
        Manifest.from_json({**values, "gate": {**values["gate"], **change}})


def test_a_field_of_another_version_is_refused():
    with pytest.raises(IntegrityError, match="later"):
        Manifest.from_json({**manifest_of().to_json(), "later": 1})
    with pytest.raises(IntegrityError, match=re.escape(upgrade_line())):
        Manifest.from_json({**manifest_of().to_json(), "schema": SCHEMA + 1})


def test_a_missing_file_is_bad_input_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(InputError, match=r"does not exist(.|\n)*export CHECKPOINT -o a\.onnx"):
        Artifact.read(tmp_path / "a.onnx")
    with pytest.raises(InputError, match="does not exist"):
        Artifact.read(tmp_path)


@pytest.mark.parametrize("change", [b"", b"the mode1", CONTENT + b"\0", CONTENT[:-1]])
def test_one_other_byte_is_refused(tmp_path, change):
    path = write(tmp_path)
    path.write_bytes(change)
    with pytest.raises(IntegrityError, match=r"SHA-256(.|\n)*copy all") as refused:
        Artifact.read(path)
    assert refused.value.exit_code == 5


def test_the_manifest_of_another_file_is_refused(tmp_path):
    path = write(tmp_path)
    manifest_path(path).write_text(json.dumps(manifest_of(b"another model").to_json()))
    with pytest.raises(IntegrityError, match="SHA-256"):
        Artifact.read(path)


def test_a_block_that_fails_leaves_both_old_files(tmp_path):
    path = write(tmp_path)
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    with pytest.raises(ZeroDivisionError):
        write_half(path)
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


def test_a_crash_between_the_two_files_is_noticed(tmp_path):
    path = write(tmp_path)
    old = manifest_path(path).read_bytes()
    write(tmp_path, b"a new model")
    manifest_path(path).write_bytes(old)
    with pytest.raises(IntegrityError, match="SHA-256"):
        Artifact.read(path)


def test_the_writers_see_the_suffix_that_they_look_at(tmp_path):
    with writing(tmp_path / "a.onnx") as (model, sidecar):
        assert (model.suffix, sidecar.suffix) == (".onnx", ".json")
        model.write_bytes(b"")
        sidecar.write_text("{}")


def test_a_folder_that_is_not_there_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(OutputError, match="mkdir -p"), writing(tmp_path / "nowhere" / "a.onnx"):
        raise AssertionError("the block has run")


def test_a_hash_is_that_of_the_whole_file(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"0123456789abcdef" * 100_000)
    assert sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_tools_that_are_installed_are_named():
    versions = tool_versions()
    assert {"python", "medattn-edge", "numpy"} <= set(versions)
    assert all(versions.values())


def test_a_recipe_with_the_names_of_older_versions_is_read_with_todays(tmp_path: Path) -> None:
    values = manifest_of().to_json()
    values["recipe"] = {"door": "nncf-onnx", "doors": [{"door": "nncf-onnx", "dice": 1.0}], "ranking": []}
    assert Manifest.from_json(values).recipe == {
        "quantizer": "nncf-onnx",
        "quantizers": [{"quantizer": "nncf-onnx", "dice": 1.0}],
        "ranking": [],
    }
