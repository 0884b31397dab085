"""The published schema of a spec describes every field, takes what specs write and refuses what they refuse."""

from __future__ import annotations

import importlib.util
import itertools
import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from medattn_edge.artifact import Artifact
from medattn_edge.errors import InputError
from medattn_edge.spec import Cleanup, Code, Intensity, ModelSpec, spec_schema
from tests.support import ROOT
from tests.support.json_schema import faults

FLAT = ModelSpec("unet", 1, ("background", "lung"), (64, 48), (16, 16))
DEEP = replace(FLAT, patch=(16, 16, 16), stride=(8, 8, 8), axes="", in_channels=2)
SPECS = [
    FLAT,
    replace(FLAT, overlap=0.0),
    replace(FLAT, overlap=0.3125),
    replace(FLAT, spacing=(0.5, 2.0), axes="WH", codes={"lung": Code("39607008", "SCT", "Lung")}, mirror="WH"),
    *(replace(DEEP, axes="".join(order)) for order in itertools.permutations("DHW")),
    *(replace(DEEP, orientation=code) for code in ("LPS", "RAS", "AIL", "SPR", "IRA", "PSL")),
    *(
        replace(DEEP, intensity=Intensity.parse(text))
        for text in (
            "none",
            "zscore;none",
            "window:-1e3:400",
            "clip:-1000:400,map:-1000:400:-1:1",
            "percentile:0.5:99.5,zscore:nonzero",
            "map:0.5%:99.5%:0:1;minmax:slice",
            "normalize:0.5:.25,zscore:joint:nonzero",
        )
    ),
    replace(
        DEEP,
        labels=("WT", "TC"),
        activation="sigmoid",
        region_order=("WT", "TC"),
        cleanup=(Cleanup.parse("largest:WT"), Cleanup.parse("drop-below:*:0.5"), Cleanup.parse("fill-holes:TC")),
        modality="MR",
        body_part="BRAIN",
        channels=("t1", "flair"),
        config={"features": [16, 32], "attention": True},
    ),
]
UNREADABLE = [
    {"later": 1},
    {"intensity": "log"},
    {"intensity": "zscore,,none"},
    {"cleanup": ["smooth:lung"]},
    {"labels": "lung"},
    {"labels": ["lung", "lung"]},
    {"patch": [64.5, 48]},
    {"patch": [64]},
    {"spacing": [0, 1]},
    {"spacing": ["1", "2"]},
    {"axes": "HD"},
    {"orientation": "RAL"},
    {"activation": "relu"},
    {"mirror": "X"},
    {"overlap": 1},
    {"overlap": -0.1},
    {"overlap": "0.5"},
    {"overlap": True},
    {"modality": 3},
    {"config": []},
    {"codes": {"lung": ["39607008", "SCT"]}},
    {"channels": ["t1", "t1"], "in_channels": 2},
]


def test_every_field_is_described_and_no_other() -> None:
    schema = spec_schema()
    assert set(schema["properties"]) == {item.name for item in fields(ModelSpec)}
    assert all(len(one["description"]) > 20 for one in schema["properties"].values())


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_what_a_spec_writes_fits_the_schema(spec: ModelSpec) -> None:
    values = json.loads(json.dumps(spec.to_json()))
    assert faults(values, spec_schema()) == []
    assert ModelSpec.from_json(values) == spec


def test_windows_are_written_down_only_where_they_are_not_the_usual_ones() -> None:
    """So that a version from before there was such a field reads everything else."""
    assert "overlap" not in FLAT.to_json()
    assert replace(FLAT, overlap=0.25).to_json()["overlap"] == 0.25


@pytest.mark.parametrize("change", UNREADABLE, ids=str)
def test_what_the_schema_refuses_the_reader_refuses_too(change: dict[str, Any]) -> None:
    values = {**FLAT.to_json(), **change}
    assert faults(values, spec_schema())
    with pytest.raises(InputError):
        ModelSpec.from_json(values)


def test_what_is_missing_is_refused_by_both() -> None:
    for name in spec_schema()["required"]:
        values = {key: value for key, value in FLAT.to_json().items() if key != name}
        assert faults(values, spec_schema())
        with pytest.raises(InputError):
            ModelSpec.from_json(values)


@pytest.mark.skipif(importlib.util.find_spec("jsonschema") is None, reason="jsonschema is not installed")
def test_the_reference_validator_says_the_same() -> None:
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(spec_schema())
    judge = jsonschema.Draft202012Validator(spec_schema())
    assert all(judge.is_valid(json.loads(json.dumps(spec.to_json()))) for spec in SPECS)
    assert not any(judge.is_valid({**FLAT.to_json(), **change}) for change in UNREADABLE)


def test_an_artifact_from_before_orientations_is_still_what_it_was() -> None:
    pytest.importorskip("onnxruntime")
    from medattn_edge.backends import open_session

    path = ROOT / "tests" / "data" / "before-orientation.onnx"
    written = json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))["spec"]
    assert "orientation" not in written
    assert faults(written, spec_schema()) == []
    spec = Artifact.read(path).spec
    assert (spec.orientation, spec.activation, str(spec.intensity)) == ("LPS", "softmax", "window:-1000:400")
    assert (spec.labels, spec.spacing, spec.cleanup, spec.mirror) == (
        ("background", "organ", "tumour"),
        (2.0, 2.0),
        (),
        "",
    )
    case = np.load(path.with_suffix(".npz"))  # what eager gave when it was written
    with open_session(path) as session:
        for image, logits in zip(case["image"], case["logits"], strict=True):
            np.testing.assert_allclose(session.run(image[None]), logits[None], rtol=0, atol=1e-5)
