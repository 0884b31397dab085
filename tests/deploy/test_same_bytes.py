"""The same inputs and recipe give the same bytes of every artifact of a CPU, in another process as well."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from medattn_edge.deploy import DeployInputs, DeployRecipe, plan_deployment
from medattn_edge.deploy.making import FileMaker
from tests.support import ROOT

RECIPE = DeployRecipe(
    threads=1,
    run_threads=1,
    samples=6,
    held_out_samples=4,
    max_trials=4,
    min_dice=0.5,
    tune_duration_s=4.0,
    report=False,
)


def make_all(inputs: DeployInputs, recipe: DeployRecipe, folder: Path) -> DeployRecipe:
    """Every candidate of a recipe in one folder; the recipe with the rewrites that were found by tuning."""
    plan = plan_deployment(inputs, recipe)
    maker = FileMaker(plan, folder / "cache", lambda what, done, of: None)
    for one in plan.made:
        if one.compiler and one.parent:
            continue  # compiled from a graph that is compared itself, and held to it more strictly than it was made
        value = maker.make(one, folder, folder / one.parent if one.parent else None)
        assert value["failure"] == "", one.name
        if rewrites := value.get("tuning", {}).get("rewrites"):
            recipe = replace(recipe, rewrites=tuple(rewrites))
    return recipe


ANOTHER_PROCESS = """
import sys
from pathlib import Path
from medattn_edge.deploy import DeployInputs, DeployRecipe, DeploySource
from medattn_edge.io import as_scan
from medattn_edge.models.checkpoint import load
from tests.deploy.test_same_bytes import make_all

checkpoint, *scans, recipe, folder = map(Path, sys.argv[1:])
inputs = DeployInputs.of(DeploySource(checkpoint, load(checkpoint)), [as_scan(scan) for scan in scans])
make_all(inputs, DeployRecipe.read(recipe), folder)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_artifact_of_a_cpu_has_the_same_bytes_again(
    inputs_of: Callable[..., DeployInputs], deployable: Path, tmp_path: Path
) -> None:
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
    stored = make_all(inputs_of(), RECIPE, tmp_path / "first")
    assert stored.rewrites
    (tmp_path / "deploy.toml").write_text(stored.to_toml())
    scans = [deployable / f"Doe-Jane-{number}.nii.gz" for number in (0, 1)]
    words = [deployable / "net.safetensors", *scans, tmp_path / "deploy.toml", tmp_path / "again"]
    subprocess.run([sys.executable, "-c", ANOTHER_PROCESS, *words], check=True, cwd=ROOT)
    models = [path.name for path in (tmp_path / "first").iterdir() if path.suffix in (".onnx", ".xml", ".bin")]
    assert {"fp32.onnx", "fp32.xml", "fp32.bin", "int8-nncf-openvino.xml", "int8-onnxruntime.onnx"} <= set(models)
    for name in models:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
