"""inspect says of a folder or a file of another tool what export would make of it, or why it would refuse it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.spec import ModelSpec
from tests.bundles.test_monai_bundle import PREPROCESSING, bundle, compose, inference
from tests.bundles.test_nnunet_results import results, with_builder
from tests.foreign.conftest import image_2d, plain, save

__all__ = ["bundle", "image_2d", "plain", "results", "save"]
Run = Callable[..., Any]


def test_a_bundle_is_shown_as_it_would_be_exported(medattn: Run, bundle: Callable[..., Path]) -> None:
    folder = bundle()
    facts = json.loads(medattn("inspect", folder, "--json").stdout)
    spec = ModelSpec.from_json(facts["spec"])
    assert (facts["kind"], spec.orientation, spec.labels) == (
        "MONAI bundle",
        "RAS",
        ("background", "spleen", "left_kidney"),
    )
    assert facts["inputs"] == {"image": [-1, 1, 16, 24, 8]}
    assert any("windows overlap" in text for text in facts["assumptions"])
    shown = medattn("inspect", folder)
    assert shown.returncode == 0
    for words in ("MONAI bundle", "windows overlap", "16x24x8, axes WHD", "1.5x1.5", "medattn-edge export"):
        assert words in shown.stdout
    told = medattn("inspect", folder, "--spec")
    assert json.loads(told.stdout) == facts["spec"]
    assert "assumed: windows overlap" in told.stderr


def test_a_refusal_of_a_bundle_is_named_and_what_it_needs_can_be_said(
    medattn: Run, bundle: Callable[..., Path]
) -> None:
    steps = [one for one in PREPROCESSING if one["_target_"] != "Orientationd"]
    folder = bundle(inference(preprocessing=compose(*steps)))
    facts = json.loads(medattn("inspect", folder, "--json").stdout)
    assert "brings scans to no orientation" in facts["refused"]
    assert "--orientation RAS" in facts["hint"]
    assert "refused: " in medattn("inspect", folder).stdout
    assert medattn("inspect", folder, "--spec").returncode == 2
    told = json.loads(medattn("inspect", folder, "--orientation", "LPS", "--json").stdout)
    assert told["spec"]["orientation"] == "LPS"
    assert "every scan is seen in LPS, as --orientation says" in told["assumptions"]
    (folder / "configs" / "inference.json").write_text("{")
    assert "not valid JSON" in json.loads(medattn("inspect", folder, "--json").stdout)["refused"]


def test_results_of_nnu_net_that_cannot_be_exported_say_why(medattn: Run, results: Callable[..., Path]) -> None:
    folder = results(folds=("0", "1"))
    facts = json.loads(medattn("inspect", folder, "--json").stdout)
    assert facts["kind"] == "nnU-Net's results"
    assert "2 of the folds" in facts["refused"]
    told = json.loads(medattn("inspect", folder, "--fold", "1", "--json").stdout)
    assert "turns no scan" in told["refused"]


@with_builder
def test_results_of_nnu_net_are_shown_as_they_would_be_exported(medattn: Run, results: Callable[..., Path]) -> None:
    from tests.bundles.test_nnunet_results import PLANS, network_of_the_library

    trained = network_of_the_library(PLANS["configurations"]["3d_fullres"], deep_supervision=True)
    folder = results(weights=trained.state_dict())
    facts = json.loads(medattn("inspect", folder, "--orientation", "LAS", "--json").stdout)
    assert facts["spec"]["patch"] == [8, 32, 24]
    assert any("mirroring" in text for text in facts["assumptions"])


@pytest.mark.parametrize("form", ["onnx", "script", pytest.param("exported", marks=pytest.mark.slow)])
def test_a_file_from_elsewhere_shows_its_spec_and_what_of_it_is_assumed(
    form: str, medattn: Run, plain: Any, image_2d: Any, save: Any
) -> None:
    source = save(plain, image_2d, form)
    words = ("--patch", "32x32") if form == "script" else ()
    if words:
        refused = json.loads(medattn("inspect", source, "--json").stdout)
        assert "does not say the size" in refused["refused"]
        assert "--patch" in refused["hint"]
        assert medattn("inspect", source, "--spec").returncode == 4
    facts = json.loads(medattn("inspect", source, *words, "--json").stdout)
    assert facts["spec"]["patch"] == [32, 32]
    assert facts["spec_assumptions"]["--orientation"] == "LPS (axial slices)"
    shown = medattn("inspect", source, *words).stdout
    assert "assumed of its input" in shown
    told = medattn("inspect", source, *words, "--spec")
    assert json.loads(told.stdout) == facts["spec"]
    assert "--labels" in told.stderr


def test_an_ordinary_folder_and_what_is_not_asked_for(medattn: Run, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "configs.txt").write_text("")
    assert medattn("inspect", tmp_path).returncode == 4  # no DICOM in it
    for words in (("--fold", "0"), ("--patch", "32x32"), ("--output-name", "y"), ("--orientation", "RAS")):
        assert medattn("inspect", checkpoint, *words).returncode == 2
