"""A recipe is a file that says everything that is asked, and comes back from it unchanged."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medattn_edge.deploy import DeployRecipe
from medattn_edge.deploy.recipe import TARGETS
from medattn_edge.errors import InputError, UsageError
from medattn_edge.installation import upgrade_line
from medattn_edge.newer_python import tomllib

FULL = DeployRecipe(
    target="tensorrt-rtx",
    candidates=("fp16.rtx", "fp32.onnx"),
    batch=2,
    overlap=0.25,
    patch=(64, 96),
    network="attention-unet-2d",
    weights="ema",
    settings=("align_corners=true", 'name="a"'),
    rewrites=("batch-norm",),
    compute_capabilities=("sm86", "sm89"),
    isa="arm",
    min_dice=0.9,
    min_true_dice_share=0.99,
    max_true_dice_share=1.5,
    judge_labels=("lésion",),
    label_values=("lésion=5,6",),
    deadline_ms=50.0,
    threads=4,
    run_threads=2,
    report=False,
    name="lungs",
    release_version=7,
    inputs={"checkpoint": "a" * 64, "scan 1": "b" * 64},
)


@pytest.mark.parametrize("recipe", [DeployRecipe(), FULL, *(DeployRecipe(target=name) for name in TARGETS)])
def test_a_recipe_comes_back_from_its_file_and_the_same_one_has_the_same_bytes(recipe):
    again = DeployRecipe.from_toml(recipe.to_toml())
    assert again == recipe
    assert again.to_toml() == recipe.to_toml()


def test_every_field_is_in_a_full_file():
    values = tomllib.loads(FULL.to_toml())
    assert set(values) - {"schema"} == {item.name for item in fields(DeployRecipe)}


@given(st.text(), st.lists(st.text(), max_size=3))
def test_any_text_comes_back(text, texts):
    recipe = DeployRecipe(name=text, judge_labels=tuple(texts), inputs={text: "x"})
    if any("\ud800" <= letter <= "\udfff" for letter in "".join([text, *texts])):
        return  # no UTF-8: the command line refuses it before
    assert DeployRecipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize(
    ("text", "found", "hint"),
    [
        ("", "has no schema number", "--dump-config"),
        ("schema = 2", "is of schema 2", upgrade_line()),
        ('schema = "1"', "has no schema number", "--dump-config"),
        ("schema = true", "has no schema number", "--dump-config"),
        ("schema = 1\nschema = 1", "is not valid TOML", "--dump-config"),
        ("schema = 1\nmin_dices = 0.9", "has the key 'min_dices'", "min_dice = ..."),
        ("schema = 1\nzzz = 1", "has the key 'zzz'", "remove the line"),
        ("schema = 1\nbatch = 1.0", "batch is 1.0", "change the line"),
        ("schema = 1\nbatch = true", "batch is True", "change the line"),
        ("schema = 1\nbatch = -1", "batch is -1", "change the line"),
        ('schema = 1\nmin_dice = "0.9"', "min_dice is '0.9'", "change the line"),
        ("schema = 1\nmin_dice = 1.1", "min_dice is 1.1", "change the line"),
        ("schema = 1\nmin_dice = nan", "min_dice is nan", "change the line"),
        ("schema = 1\ndeadline_ms = 0", "deadline_ms is 0", "change the line"),
        ("schema = 1\nduration_s = inf", "duration_s is inf", "change the line"),
        ("schema = 1\nmin_true_dice_share = -1", "min_true_dice_share is -1", "change the line"),
        ("schema = 1\npatch = [32]", "patch is '32'", "change the line"),
        ("schema = 1\npatch = [32, 0]", "patch is '32x0'", "change the line"),
        ('schema = 1\npatch = ["32", "32"]', "patch is ['32', '32']", "change the line"),
        ('schema = 1\ncandidates = "fp32.onnx"', "candidates is 'fp32.onnx'", "change the line"),
        ('schema = 1\ntarget = "gpu"', "the target 'gpu'", "change the line"),
        ("schema = 1\nname = 3", "name is 3", "change the line"),
        ("schema = 1\ninputs = 3", "inputs is 3", "change the line"),
        ("schema = 1\n[inputs]\nscan = 3", "inputs is", "change the line"),
        ("schema = 1\n[batch]\n", "batch is {}", "change the line"),
    ],
)
def test_a_file_that_is_no_recipe_says_why(text, found, hint):
    with pytest.raises(InputError) as raised:
        DeployRecipe.from_toml(text)
    assert found in raised.value.found
    assert hint in raised.value.hint


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        DeployRecipe.read(tmp_path / "deploy.toml")
    with pytest.raises(InputError, match="cannot be read"):
        DeployRecipe.read(tmp_path)
    (tmp_path / "deploy.toml").write_bytes(b"schema = 1\nname = '\xff'\n")
    with pytest.raises(InputError, match="not UTF-8"):
        DeployRecipe.read(tmp_path / "deploy.toml")


@pytest.mark.parametrize("name", ["samples", "held_out_samples", "max_trials", "measured_patches"])
def test_a_count_below_one_is_refused_by_its_option(name):
    with pytest.raises(UsageError) as raised:
        DeployRecipe(**{name: 0})
    assert raised.value.hint == f"--{name.replace('_', '-')} 1"
