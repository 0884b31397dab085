"""export rewrites the network: the plan that it prints, what a user changes of it, and what inspect says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.artifact import Artifact

Run = Callable[..., Any]
SUFFIX = "network.torchscript"  # written in a moment


def exported(medattn: Run, checkpoint: Path, folder: Path, *words: str) -> tuple[Any, Artifact]:
    done = medattn("export", checkpoint, "-o", folder / SUFFIX, *words)
    assert done.returncode == 0, done.stderr
    return done, Artifact.read(folder / SUFFIX)


def names(artifact: Artifact) -> list[str]:
    return [one["name"] for one in artifact.manifest.rewrites]


def test_the_plan_is_printed_and_kept_and_inspect_tells_it(medattn: Run, checkpoint: Path, tmp_path: Path) -> None:
    done, artifact = exported(medattn, checkpoint, tmp_path)
    assert names(artifact) == ["batch-norm", "nearest-upsampling", "concat-sums"]
    assert all(one["sites"] > 0 for one in artifact.manifest.rewrites)
    lines = {line.split("│")[1].strip(): line for line in done.stdout.splitlines() if line.count("│") == 5}
    assert [lines.keys() & {name} for name in names(artifact)] == [{name} for name in names(artifact)]
    saved = sum(one["gflop_saved"] for one in artifact.manifest.rewrites)
    assert saved > 0
    assert f"{artifact.manifest.gflop + saved:.2f} -> {artifact.manifest.gflop:.2f}" in lines["in total"]
    told = medattn("inspect", artifact.path).stdout
    assert "34 batch-norm, 4 nearest-upsampling, 4 concat-sums; saved" in " ".join(told.replace("│", " ").split())
    document = json.loads(medattn("inspect", artifact.path, "--json").stdout)
    assert document["rewrites"] == list(artifact.manifest.rewrites)
    assert "rewrites" not in medattn("inspect", checkpoint).stdout


def test_no_rewrites_folds_batch_norms_and_nothing_else(medattn: Run, checkpoint: Path, tmp_path: Path) -> None:
    done, artifact = exported(medattn, checkpoint, tmp_path, "--no-rewrites", "--json")
    assert names(artifact) == ["batch-norm"]
    assert json.loads(done.stdout)["rewrites"] == list(artifact.manifest.rewrites)
    before = json.loads(medattn("inspect", checkpoint, "--json").stdout)
    assert artifact.manifest.gflop == before["gflop"]


@pytest.mark.slow
def test_a_user_adds_and_leaves_out(medattn: Run, checkpoint: Path, tmp_path: Path) -> None:
    words = ("--rewrite", "+pixel-shuffle", "--rewrite", "-concat-sums", "--rewrite", "gate-pairs")
    done, artifact = exported(medattn, checkpoint, tmp_path, *words)
    assert names(artifact) == ["batch-norm", "nearest-upsampling", "pixel-shuffle"]
    assert "--rewrite gate-pairs: there is nothing to rewrite so in this attention-unet-2d" in done.stderr
    assert "--rewrite pixel-shuffle" not in done.stderr
    _, artifact = exported(medattn, checkpoint, tmp_path, "--no-rewrites", "--rewrite", "concat-sums")
    assert names(artifact) == ["batch-norm", "concat-sums"]


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (("batch-nrom",), "['batch-nrom'] are not known; expected some of batch-norm, ", "--rewrite batch-norm"),
        (("+batch-nrom",), "['batch-nrom'] are not known", "--rewrite batch-norm"),
        (("-batch-nrom",), "['batch-nrom'] are not known", "--rewrite batch-norm"),
        (("",), "[''] are not known", "--rewrite"),
        (("scalar-prelu", "-scalar-prelu"), "scalar-prelu is added", "--rewrite scalar-prelu"),
        (("position-sdpa", "position-blocks"), "exclude each other", "--rewrite position-"),
    ],
)
def test_a_name_that_cannot_be_followed_is_refused_with_those_that_are_known(
    words: tuple[str, ...], said: str, hint: str, medattn: Run, checkpoint: Path, tmp_path: Path
) -> None:
    given = [part for word in words for part in ("--rewrite", word)]
    done = medattn("export", checkpoint, "-o", tmp_path / SUFFIX, *given)
    assert done.returncode == 2
    assert said in done.stderr
    assert f"next: {hint}" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_former_name_of_no_rewrites_is_refused_with_the_new_one(
    medattn: Run, checkpoint: Path, tmp_path: Path
) -> None:
    done = medattn("export", checkpoint, "-o", tmp_path / SUFFIX, "--no-fuse")
    assert done.returncode == 2
    assert "--no-fuse" in done.stderr
    assert "next: --no-rewrites" in done.stderr
    assert list(tmp_path.iterdir()) == []
