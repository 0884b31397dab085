"""A scan of another modality than the network's is refused by its headers, and doubted by its values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medattn_edge.errors import ModalityError
from medattn_edge.io import as_scan, write_labels
from medattn_edge.io.modality import check_modality, notes_of_modality
from medattn_edge.spec import dicom_modality, modalities_of
from tests.support.sessions import make_spec, make_volume


def spec_of(modality: str = "", body_part: str = "", channels: int = 1):
    return make_spec((8, 8), 2, channels, modality=modality, body_part=body_part)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from tests.support.dicom_phantoms import real_ct, write_series

    scan, root = real_ct(3, 16, 12), tmp_path_factory.mktemp("series")
    for modality in ("CT", "MR", "PT"):
        write_series(root / modality, scan.voxels, scan.affine, modality=modality, BodyPartExamined="CHEST")
    return {modality: root / modality for modality in ("CT", "MR", "PT")}


@pytest.mark.parametrize(("typed", "meant"), [("mri", "MR"), ("PET", "PT"), (" ct ", "CT"), ("XA", "XA")])
def test_a_modality_is_named_as_dicom_does(typed: str, meant: str) -> None:
    assert dicom_modality(typed) == meant


def test_a_spec_may_name_several() -> None:
    assert modalities_of("pet/ct") == modalities_of("PT+CT") == ("PT", "CT")
    assert modalities_of("") == ()


@pytest.mark.parametrize("wanted", ["CT", "MR", "PT"])
@pytest.mark.parametrize("found", ["CT", "MR", "PT"])
def test_only_the_networks_modality_is_taken_unless_any_is_wished(
    series: dict[str, Path], wanted: str, found: str
) -> None:
    scan = as_scan(series[found])
    if wanted == found:
        check = check_modality(spec_of(wanted), scan.all_series)
        assert (check.network, check.scan, check.contradicted) == (wanted, found, False)
        return
    with pytest.raises(ModalityError, match=f"{found} images for a network of {wanted}") as raised:
        check_modality(spec_of(wanted), scan.all_series)
    assert (raised.value.exit_code, raised.value.code) == (4, "other_modality")
    assert "--any-modality" in raised.value.hint
    check = check_modality(spec_of(wanted), scan.all_series, any_modality=True)
    assert check.contradicted
    assert f"the scan is {found}, and the network is one of {wanted}" in notes_of_modality(
        spec_of(wanted), check, scan.read()
    )[0]  # fmt: skip


def test_every_way_to_voxels_for_a_network_looks_at_it(series: dict[str, Path]) -> None:
    with pytest.raises(ModalityError):
        as_scan(series["MR"]).read_for(spec_of("CT"))
    assert as_scan(series["CT"]).read_for(spec_of("CT")).shape == (3, 16, 12)


def test_each_channel_is_looked_at(series: dict[str, Path]) -> None:
    both = as_scan(f"{series['CT']}+{series['PT']}")
    assert check_modality(spec_of("PET/CT", channels=2), both.all_series).scan == "CT+PT"
    with pytest.raises(ModalityError, match="PT images for a network of CT"):
        check_modality(spec_of("CT", channels=2), both.all_series)


def notes(modality: str, voxels: np.ndarray, tmp_path: Path) -> tuple[str, ...]:
    volume = make_volume(voxels)
    write_labels(tmp_path / "scan.npz", make_volume(np.zeros((2, 3, 4), np.uint8)), ("background",))
    spec = spec_of(modality)
    return notes_of_modality(spec, check_modality(spec, as_scan(tmp_path / "scan.npz").all_series), volume)


def test_a_file_that_says_no_modality_is_taken_for_the_networks_aloud(tmp_path: Path) -> None:
    voxels = np.full((2, 3, 4), -101, np.int16)
    assert notes("CT", voxels, tmp_path) == (
        "the scan does not say its modality: taken for CT, as the network expects",
    )
    assert notes("", voxels, tmp_path) == (
        "the network does not say its modality: the scan was taken for it unchecked",
    )


@pytest.mark.parametrize(
    ("modality", "lowest", "said"),
    [
        ("CT", 0, "the scan's lowest value is 0"),
        ("CT", 24, "the scan's lowest value is 24"),
        ("CT", -100, "the scan's lowest value is -100"),
        ("CT", -101, ""),
        ("MR", 0, ""),
        ("MR", -500, ""),
        ("MR", -501, "go down to -501, as a CT's in HU do"),
        ("PT", -1024, "go down to -1024"),
        ("PT+CT", 0, ""),
        ("", 0, ""),
    ],
)
def test_values_that_the_modality_does_not_have_are_told(modality: str, lowest: int, said: str, tmp_path: Path) -> None:
    voxels = np.full((2, 3, 4), 3000, np.int16)
    voxels[1, 2, 3] = lowest
    rest = notes(modality, voxels, tmp_path)[1:]
    assert (said in rest[0]) if said else rest == ()


def test_another_body_part_is_a_note_without_the_text_of_the_scan(series: dict[str, Path]) -> None:
    scan = as_scan(series["CT"])
    for wanted, same in (("chest", True), ("CHEST_ABDOMEN", True), ("BRAIN", False), ("", None)):
        check = check_modality(spec_of("CT", wanted), scan.all_series)
        assert check.body_part is same
        said = notes_of_modality(spec_of("CT", wanted), check, scan.read())
        assert any("body part examined is another than the network's BRAIN" in one for one in said) == (same is False)
        assert not any("CHEST" in one for one in said)
