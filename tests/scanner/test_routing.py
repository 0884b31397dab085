"""The first model whose four patterns fit takes a series."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medattn_edge.scanner.config.node_config import Model
from medattn_edge.scanner.config.routing import place, route
from medattn_edge.scanner.config.sections import Channel
from medattn_edge.scanner.store.records import Job, Part, Placement
from medattn_edge.scanner.work.dispatch import Routes

JOB = Job(1, "0" * 32, 1, 1, ("a.dcm",), "CT", "CHEST", "Thorax 1.0 B30f [lung]", "CT1")


def model(name: str = "any", **patterns: str) -> Model:
    return Model(name, Path("net.onnx"), **patterns)


def test_a_model_without_patterns_takes_everything():
    assert route([model()], JOB) == model()
    assert route([model()], replace(JOB, modality="", body_part="", description="", calling_ae="")) == model()


def test_the_first_that_fits_takes_it_and_no_model_takes_what_fits_none():
    mr, chest, rest = model("mr", modality="MR"), model("chest", body_part="CHEST"), model("rest")
    assert route([mr, chest, rest], JOB) == chest
    assert route([rest, chest], JOB) == rest
    assert route([mr], JOB) is None
    assert route([], JOB) is None


@pytest.mark.parametrize(
    ("patterns", "fits"),
    [
        ({"modality": "CT"}, True),
        ({"modality": "MR"}, False),
        ({"modality": "C"}, False),
        ({"body_part": "chest"}, True),
        ({"body_part": "CH*"}, True),
        ({"body_part": "HEST"}, False),
        ({"description": "thorax*"}, True),
        ({"description": "*B3?F*"}, True),
        ({"description": "*[LUNG]"}, True),
        ({"description": "*[lx]ung]"}, False),
        ({"description": "*[lung"}, False),
        ({"calling_ae": "CT?"}, True),
        ({"calling_ae": "CT"}, False),
        ({"modality": "CT", "body_part": "CHEST", "description": "*lung*", "calling_ae": "CT1"}, True),
        ({"modality": "CT", "body_part": "CHEST", "description": "*lung*", "calling_ae": "CT2"}, False),
        ({"modality": "CT", "body_part": "CHEST", "description": "*head*", "calling_ae": "CT1"}, False),
        ({"modality": "CT", "body_part": "HEAD", "description": "*lung*", "calling_ae": "CT1"}, False),
    ],
)
def test_patterns(patterns, fits):
    assert (route([model(**patterns)], JOB) is not None) == fits


def test_a_folder_has_no_title_and_a_model_for_a_title_does_not_take_what_came_from_one():
    from_folder = replace(JOB, calling_ae="")
    assert route([model(calling_ae="CT1")], from_folder) is None
    assert route([model(calling_ae="?*")], from_folder) is None
    assert route([model(calling_ae="")], from_folder) is not None
    assert route([model(calling_ae="")], JOB) is None


def test_spaces_that_pad_a_value_in_dicom_do_not_count():
    assert route([model(body_part="CHEST")], replace(JOB, body_part=" CHEST ")) is not None


@given(st.text(max_size=64))
def test_a_description_without_wildcards_fits_itself_in_any_case(text):
    literal = text.replace("*", "x").replace("?", "x").strip()
    assert route([model(description=literal)], replace(JOB, description=literal)) is not None
    assert route([model(description=literal.upper())], replace(JOB, description=literal)) is not None


BRAIN = model(
    "brain",
    modality="MR",
    channels=(Channel("t1", "*T1*"), Channel("t1ce", "*T1*GD*"), Channel("flair", "*flair*", body_part="BRAIN")),
)
SERIES = replace(JOB, modality="MR", description="AX FLAIR", body_part="BRAIN")


@pytest.mark.parametrize(
    ("changes", "channels"),
    [
        ({}, ("flair",)),
        ({"description": "AX T1"}, ("t1",)),
        ({"description": "AX T1 +GD"}, ("t1", "t1ce")),
        ({"body_part": "NECK"}, None),
        ({"description": "AX T2"}, None),
        ({"modality": "CT"}, None),
    ],
)
def test_a_series_is_the_channels_whose_patterns_it_fits_and_what_fits_none_goes_to_the_next_model(changes, channels):
    job, rest = replace(SERIES, **changes), model("rest")
    found = place([BRAIN, rest], job)
    assert found == (channels and Placement("brain", channels, ("t1", "t1ce", "flair")))
    assert route([BRAIN, rest], job) == (BRAIN if channels else rest)
    assert Routes((BRAIN, rest), ()).accepts(job, "cpu") == (channels is None)


def test_the_job_of_a_study_goes_to_its_model_while_that_has_these_channels():
    parts = tuple(Part(name, "0" * 32, 1, ("a.dcm",)) for name in ("t1", "t1ce", "flair"))
    study = replace(SERIES, model="brain", parts=parts, description="")
    assert route([model("rest"), BRAIN], study) == BRAIN
    assert Routes((BRAIN,), ()).accepts(study, "cpu")
    assert not Routes((BRAIN,), ()).accepts(study, "cuda:0")
    assert place([BRAIN], study) is None
    for changed in (replace(BRAIN, name="other"), replace(BRAIN, channels=BRAIN.channels[::-1]), model("brain")):
        assert route([changed], study) is None
