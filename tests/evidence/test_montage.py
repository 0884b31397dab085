"""The picture of a comparison: the worst slices of every candidate, and the colours of what differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medattn_edge.errors import OutputError, UsageError
from medattn_edge.evaluation.seen_scan import SeenScan
from medattn_edge.evidence.montage import Montage
from medattn_edge.evidence.pictures import ONLY_CANDIDATE, ONLY_REFERENCE, OTHER_LABEL
from medattn_edge.io import Scan
from medattn_edge.io.organs import label_colours
from medattn_edge.io.page import check_picture, fitted
from medattn_edge.labels import Meaning
from medattn_edge.spec import Code, Intensity
from tests.support.sessions import make_volume

MEANING = Meaning(("background", "liver", "spleen"))
NET, SMALL = (Path("net.onnx"), "onnxruntime"), (Path("small.xml"), "openvino")
BEFORE = np.zeros((5, 24, 24), np.uint8)
BEFORE[:, 4:20, 4:12], BEFORE[:, 4:20, 12:20] = 1, 2


def seen(runs: dict[tuple[Path, str], np.ndarray], index: int = 0, values: float = 0.5) -> SeenScan:
    volume = make_volume(np.full(BEFORE.shape, values, np.float32), (5.0, 1.0, 1.0))
    labels = {run: volume.with_voxels(voxels) for run, voxels in runs.items()}
    scan = Scan(f"Doe{index}.nii.gz")
    about = (volume, MEANING, volume.with_voxels(BEFORE), None, labels, Intensity.window(0, 1))
    return SeenScan(index, scan, scan.name, *about)


def changed(slices: dict[int, int]) -> np.ndarray:
    """So many voxels of a slice lost; one too many, and one of the other organ, in the first of these."""
    after = BEFORE.copy()
    for place, count in slices.items():
        after[place, 5, 4 : 4 + count] = 0
    first = next(iter(slices), None)
    if first is not None:
        after[first, 1, 1], after[first, 10, 6] = 1, 2
    return after


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB"))


def has(page: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((page == colour).all(axis=-1).sum())


def test_labels_have_the_colours_of_the_specs_codes_in_pictures_and_legend(tmp_path: Path) -> None:
    codes = {"liver": Code("64033007", "SCT", "Kidney"), "spleen": Code("15776009", "SCT", "Pancreas")}
    named, coded = (label_colours(MEANING.names, one, on_grey=True) for one in (None, codes))
    assert set(named[1:]).isdisjoint(coded[1:]), "colours that are the same prove nothing"
    montage = Montage(slices=1)
    montage(replace(seen({NET: changed({1: 2})}), codes=codes))
    assert montage.write_montage(tmp_path / "coded.png") == 1
    page = pixels(tmp_path / "coded.png")
    assert all(has(page, colour) for colour in coded[1:])
    assert not any(has(page, colour) for colour in named[1:])


def test_every_candidate_has_its_worst_slices_over_all_scans_beside_the_reference(tmp_path: Path) -> None:
    montage = Montage(slices=2)
    montage(seen({NET: changed({1: 2, 3: 1}), SMALL: changed({})}, 0))
    montage(seen({NET: changed({2: 4}), SMALL: changed({})}, 1))
    assert montage.write_montage(tmp_path / "a.png") == 3  # two of the first, and one to look at of the second
    page = pixels(tmp_path / "a.png")
    side = 420
    assert page.shape == (20 + 3 * (30 + side + 14) + 30 + 20, 20 + 3 * side + 2 * 14 + 20, 3)
    rows = [page[50 + number * (side + 44) :][:side] for number in range(3)]
    reference, candidate, difference = (
        slice(20 + place * (side + 14), 20 + place * (side + 14) + side) for place in range(3)
    )
    liver, spleen = label_colours(MEANING.names, on_grey=True)[1:]
    for row in rows:
        assert has(row[:, reference], liver) > 500
        assert has(row[:, candidate], spleen) > 500
    lost = [has(row[:, difference], ONLY_REFERENCE) for row in rows]
    assert lost[0] > 1.5 * lost[1] > 0 == lost[2]  # the worst first, of whichever scan it is
    for colour in (ONLY_CANDIDATE, OTHER_LABEL):
        assert has(rows[0][:, difference], colour) > 100
    assert not any(has(rows[0][:, reference], colour) for colour in (ONLY_REFERENCE, ONLY_CANDIDATE, OTHER_LABEL))
    legend = page[-50:]
    assert all(has(legend, one) == 15 * 15 for one in (liver, spleen, ONLY_REFERENCE, ONLY_CANDIDATE, OTHER_LABEL))


def test_the_differences_alone_stand_side_by_side(tmp_path: Path) -> None:
    montage = Montage(slices=3)
    montage(seen({NET: changed({1: 2, 3: 1, 4: 1})}))
    assert montage.write_difference(tmp_path / "a.png") == 3
    page = pixels(tmp_path / "a.png")
    assert page.shape[0] == 20 + 30 + 420 + 14 + 30 + 20
    assert has(page, label_colours(MEANING.names, on_grey=True)[1]) == 0
    panels = [page[:, 20 + place * 434 : 440 + place * 434] for place in range(3)]
    assert all(has(panel[:470], ONLY_REFERENCE) for panel in panels)


def test_the_picture_is_in_the_window_of_the_network(tmp_path: Path) -> None:
    for value, shade in ((0.5, 128), (2.0, 255), (-1.0, 0)):
        montage = Montage(slices=1)
        montage(seen({NET: changed({0: 1})}, values=value))
        montage.write_montage(tmp_path / "a.png")
        assert pixels(tmp_path / "a.png")[60, 25].tolist() == [shade] * 3


def test_a_comparison_that_nothing_finished_leaves_no_picture(tmp_path: Path) -> None:
    montage = Montage()
    montage(seen({}))
    assert montage.write_montage(tmp_path / "a.png") == montage.write_difference(tmp_path / "b.png") == 0
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.jpg(.|\n)*--montage a\.png"):
        check_picture(tmp_path / "a.jpg", "--montage")
    with pytest.raises(OutputError, match="mkdir -p"):
        check_picture(tmp_path / "nowhere" / "a.png", "--montage")


def test_a_caption_is_cut_where_its_panel_ends() -> None:
    assert fitted("liver", 420) == "liver"
    short = fitted("a long name of an artifact " * 5, 200)
    assert short.startswith("a long name")
    assert short.endswith("...")
    assert len(short) < 40
