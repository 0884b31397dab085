"""The colours of labels with names: accustomed where there are any, apart from each other, and on scans from grey."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.io import write_labels
from medattn_edge.io.colours import RGB, lab_of, label_colour, rgb_of
from medattn_edge.io.dicom import anatomy
from medattn_edge.io.organs import label_colours, organ_colour
from medattn_edge.spec import Code
from medattn_edge.volume import Volume

LUNGS = ["background", "right_lung", "left_lung"]
LIVER_TUMOUR = ["background", "liver", "liver_tumour"]
ABDOMEN = ["background", "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach",
           "aorta", "inferior vena cava", "portal vein", "pancreas", "right adrenal gland",
           "left adrenal gland"]  # fmt: skip
HEART = ["background", "left ventricle", "myocardium", "right ventricle", "left atrium", "right atrium", "aorta"]
PALE = ["background", "brain", "bone", "duodenum", "rib", "trachea", "ball"]
UNKNOWN = ["background", *(f"structure {number}" for number in range(1, 11))]
SETS = [LUNGS, LIVER_TUMOUR, ABDOMEN, HEART, PALE, UNKNOWN]


def distance(one: RGB, other: RGB) -> float:
    return float(np.linalg.norm(lab_of(one) - lab_of(other)))


@pytest.mark.parametrize("names", SETS, ids=lambda names: names[1])
def test_outlines_on_a_scan_stand_out_from_each_other_and_from_every_grey(names: list[str]) -> None:
    colours = label_colours(names, on_grey=True)
    assert colours[0] == (0, 0, 0)
    assert min(distance(*pair) for pair in itertools.combinations(colours[1:], 2)) >= 25
    for colour, grey in itertools.product(colours[1:], range(0, 256, 5)):
        assert distance(colour, (grey, grey, grey)) >= 40


@pytest.mark.parametrize("names", SETS, ids=lambda names: names[1])
def test_what_viewers_fill_can_be_told_apart(names: list[str]) -> None:
    colours = label_colours(names)
    assert min(distance(*pair) for pair in itertools.combinations(colours[1:], 2)) >= 10


def test_organs_have_the_colours_that_3d_slicers_users_know_the_first_of_each_kind() -> None:
    colours = dict(zip(ABDOMEN, label_colours(ABDOMEN), strict=True))
    assert (colours["liver"], colours["spleen"]) == ((221, 130, 101), (157, 108, 162))
    assert (colours["right kidney"], colours["pancreas"]) == ((185, 102, 83), (249, 180, 111))
    # The left kidney is another shade of the same hue.
    right, left = (lab_of(colours[f"{side} kidney"]) for side in ("right", "left"))
    assert np.arctan2(right[2], right[1]) == pytest.approx(np.arctan2(left[2], left[1]), abs=0.05)
    assert abs(right[0] - left[0]) > 10
    # The stomach's own colour cannot be told from the liver's.
    assert distance((216, 132, 105), colours["liver"]) < 5 < 10 <= distance(colours["stomach"], colours["liver"])


def test_an_organs_colour_on_a_scan_keeps_its_hue() -> None:
    known, drawn = (lab_of(label_colours(["", "lung"], on_grey=on_grey)[1]) for on_grey in (False, True))
    assert np.hypot(*known[1:]) < 20
    assert np.arctan2(drawn[2], drawn[1]) == pytest.approx(np.arctan2(known[2], known[1]), abs=0.05)


def test_a_code_counts_before_a_name_and_what_neither_says_has_the_colour_of_its_number() -> None:
    codes = {"target": Code("10200004", "SCT", "Liver"), "liver": Code("78961009", "SCT", "Spleen")}
    assert label_colours(["background", "target", "ball"], codes)[1:] == [(221, 130, 101), label_colour(2)]
    assert organ_colour("liver", codes) == (157, 108, 162)
    assert organ_colour("liver", {"liver": Code("10200004", "99LOCAL", "Liver")}) is None
    assert organ_colour("ball") is None


def test_every_colour_in_the_table_is_of_an_organ_that_names_are_known_for() -> None:
    names = [*anatomy._ORGANS, *anatomy._ABNORMALITIES]
    coloured = {name for name in names if organ_colour(name)}
    assert set(names) - coloured == {
        "brain stem",
        "breast",
        "cerebellum",
        "hippocampus",
        "rectum",
    }  # nobody names these
    codes = {code for code, _ in [*anatomy._ORGANS.values(), *anatomy._ABNORMALITIES.values()]}
    from medattn_edge.io.organs import _ACCUSTOMED

    assert set(_ACCUSTOMED) <= codes


def test_more_labels_than_there_are_colours_still_differ() -> None:
    colours = label_colours(["background", *(f"structure {number}" for number in range(104))], on_grey=True)
    assert len(set(colours)) == 105


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (127, 127, 127), (221, 130, 101), (0, 151, 206)])
def test_cielab_is_that_of_another_library_and_goes_back(colour: RGB) -> None:
    assert rgb_of(lab_of(colour)) == colour
    highdicom = pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    scaled = highdicom.color.CIELabColor.from_rgb(*colour).value  # PS3.3 C.10.7.1.1: 16 bits for 0..100 and -128..127
    theirs = np.array(scaled) / 65535 * (100, 255, 255) - (0, 128, 128)
    np.testing.assert_allclose(lab_of(colour), theirs, atol=1.0)


def test_3d_slicers_segmentation_has_them_by_its_names(tmp_path: Path) -> None:
    slicerio = pytest.importorskip("slicerio", reason="the extra export is not installed")
    labels = Volume(np.arange(3, dtype=np.uint8).reshape(1, 1, 3), np.eye(4)[[2, 1, 0, 3]])
    write_labels(tmp_path / "a.seg.nrrd", labels, ["background", "liver", "spleen"])
    found = slicerio.read_segmentation(str(tmp_path / "a.seg.nrrd"))["segments"]
    assert [[round(255 * channel) for channel in one["color"]] for one in found] == [[221, 130, 101], [157, 108, 162]]
