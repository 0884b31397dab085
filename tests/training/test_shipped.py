"""The checkpoints in the package are what they say they are."""

from __future__ import annotations

import pytest

from medattn_edge.data import shipped_checkpoints
from medattn_edge.data.samples import sample_labels, sample_scan
from medattn_edge.models import checkpoint
from medattn_edge.training import Label, evaluate, read_cases, split_cases
from medattn_edge.training.split import describe

LUNGS = (Label(1, "right_lung", (5,)), Label(2, "left_lung", (6,)))
MEGABYTE = 10**6


def test_there_is_one_of_each_network_family() -> None:
    names = {name: checkpoint.load(path).spec.network for name, path in shipped_checkpoints().items()}
    assert {checkpoint.load(path).spec.modality for path in shipped_checkpoints().values()} == {"CT"}
    assert names == {"lungs-attention-unet-2d": "attention-unet-2d", "lungs-self-guided": "self-guided"}


@pytest.mark.parametrize("name", ["lungs-attention-unet-2d", "lungs-self-guided"])
def test_a_shipped_checkpoint_reaches_the_dice_of_its_notes(name: str) -> None:
    path = shipped_checkpoints()[name]
    assert path.stat().st_size <= 8 * MEGABYTE
    loaded = checkpoint.load(path)
    notes, settings = loaded.notes, loaded.notes["settings"]
    cases = read_cases([(sample_scan(), sample_labels())], LUNGS)
    parts = split_cases(cases, settings["holdout"], settings["blocks"])
    assert notes["split"] == describe(cases, parts)
    assert notes["subjects"] == 1
    assert notes["command"].startswith("medattn-edge train CTChest4.nrrd Segmentation.seg.nrrd ")
    score = evaluate(loaded.network, loaded.spec, cases, parts, everything=True)
    assert score.held_out == pytest.approx(notes["held_out_dice"], abs=1e-3)
    assert score.training == pytest.approx(notes["training_dice"], abs=1e-3)
    assert min(score.held_out.values()) >= 0.95


def test_the_readme_says_the_same_as_the_notes() -> None:
    for name, path in shipped_checkpoints().items():
        text = path.with_name("README.md").read_text(encoding="utf-8")
        notes = checkpoint.load(path).notes
        section = text.split(f"## {name}\n")[1].split("\n## ")[0]
        assert " ".join(section.replace("\\\n", " ").split()).count(notes["command"]) == 1
        assert notes["split"][0]["held_out_slices"] in section
        for dice in notes["held_out_dice"].values():
            assert f"{dice:.4f}" in section
