"""What is done to the labels and what is said and written of them: each limit itself and the next value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import OutputError, ScanError
from medattn_edge.inference import Outputs, SegmentSettings, segment
from medattn_edge.inference.cleanup import check_scan, clean, describe_after
from medattn_edge.inference.dicom_results import algorithm_of, label_settings
from medattn_edge.inference.label_audit import LabelAudit
from medattn_edge.inference.mirrored import mirrored_forms
from medattn_edge.spec import Cleanup, Code, Intensity
from medattn_edge.volume import Volume
from tests.support.sessions import make_spec, make_volume

Make = Callable[..., Any]
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("voxels", "kept"), [(6, False), (7, True), (8, True)])
def test_a_component_of_exactly_so_many_millilitres_stays(voxels: int, kept: bool) -> None:
    spec = make_spec((4, 4), 2, cleanup=(Cleanup.parse("drop-below:*:0.7"),))
    labels = np.zeros((1, 3, 12), np.uint8)
    labels[0, 1, :voxels] = 1
    clean(labels, spec, 0.1)
    assert bool(labels.any()) is kept


def test_millimetres_are_needed_for_millilitres_only() -> None:
    plain = make_volume(np.arange(24.0).reshape(2, 3, 4), calibrated=False)
    check_scan(plain, make_spec((4, 4), cleanup=(Cleanup.parse("largest:*"),)))
    check_scan(
        make_volume(np.arange(24.0).reshape(2, 3, 4)), make_spec((4, 4), cleanup=(Cleanup.parse("drop-below:*:1"),))
    )
    with pytest.raises(ScanError, match="no voxel spacing"):
        check_scan(plain, make_spec((4, 4), cleanup=(Cleanup.parse("largest:*"), Cleanup.parse("drop-below:*:1"))))


@pytest.mark.parametrize(("mirror", "runs"), [("H", 2), ("HW", 4)])
def test_what_is_done_beside_one_run_is_told(mirror: str, runs: int) -> None:
    spec = make_spec((4, 4), mirror=mirror)
    assert f"every window is run {runs} times" in describe_after(spec)[0]
    assert len(mirrored_forms(spec)) == runs
    assert mirrored_forms(spec)[0] == ()
    assert mirrored_forms(spec)[-1] == ((2, 3) if mirror == "HW" else (2,))
    assert describe_after(make_spec((4, 4))) == []


def test_an_identity_names_every_setting_that_decides_the_labels(tmp_path: Path) -> None:
    spec = make_spec((4, 4), mirror="H", cleanup=(Cleanup.parse("largest:*"),))
    assert label_settings(0.25, True, "onnxruntime", spec, "maps") == {
        "backend": "onnxruntime", "overlap": "0.25", "skip_air": True, "mirror": "H", "cleanup": str(spec.cleanup[0]),
        "regions": "maps",
    }  # fmt: skip
    settings = label_settings(None, False, "openvino", make_spec((4, 4)))
    assert settings == label_settings(0.5, False, "openvino", make_spec((4, 4)))
    assert label_settings(None, False, "openvino", make_spec((4, 4), overlap=0.25))["overlap"] == "0.25"
    assert settings == {"backend": "openvino", "overlap": "0.5", "skip_air": False}
    (tmp_path / "a.onnx").write_bytes(b"network")
    named = algorithm_of(tmp_path / "a.onnx", spec, {"b": 2, "a": "x"})
    assert (named.name, named.settings) == ("fake", "a=x b=2")
    assert named.model_sha256.startswith("3009be769fb8f956")


@pytest.mark.parametrize(("values", "more"), [(12, ""), (13, " and 1 more"), (14, " and 2 more")])
def test_a_line_names_twelve_values(values: int, more: str) -> None:
    labels = np.repeat(np.arange(1, values + 1), np.arange(values, 0, -1)).reshape(1, 1, -1)
    audit = LabelAudit.of("a.npz", make_volume(labels), {})
    assert audit.text.count("voxels") == 12
    assert audit.text.endswith(f"({values - 11:,} voxels, 0.0 ml){more}")
    assert audit.hint(["liver"]) == (
        f"--label-value liver=VALUE, VALUE being one of {', '.join(map(str, range(1, 13)))}"
    )


def test_maps_are_audited_by_their_numbers() -> None:
    maps = np.zeros((2, 2, 3, 4), np.uint8)
    maps[1, 0] = 1
    audit = LabelAudit.of_maps("a.nrrd", make_volume(maps, (5.0, 2.0, 1.0)), {"one": [1], "two": [2]})
    rows = [(row.value, row.labels, row.voxels, row.millilitres) for row in audit.counts]
    assert rows == [(1, ("one",), 0, 0.0), (2, ("two",), 12, pytest.approx(0.12))]
    assert (audit.present, audit.mapping) == ({"two"}, "one=1, two=2")
    assert str(audit.counts[1]) == "2 (12 voxels, 0.1 ml: two)"


def bright(patches: np.ndarray) -> np.ndarray:
    return patches - 50


def test_maps_go_to_a_scratch_file_above_their_limit_only(fake: Make, tmp_path: Path) -> None:
    session, volume = fake(make_spec((8, 8), 1), bright), make_volume(np.zeros((2, 8, 8)))
    size = 4 * 2 * 2 * 8 * 8
    for limit, on_disk in ((size, False), (size - 1, True)):
        settings = SegmentSettings(probabilities=True, scratch=tmp_path, in_memory_bytes=limit)
        made = segment(session, volume, settings=settings).probabilities
        assert made is not None
        assert isinstance(made.voxels, np.memmap) is on_disk
    assert SegmentSettings().in_memory_bytes == 268_435_456
    nowhere = SegmentSettings(probabilities=True, scratch=tmp_path / "absent", in_memory_bytes=0)
    with pytest.raises(OutputError) as caught:
        segment(session, make_volume(np.zeros((4, 256, 512))), settings=nowhere)
    assert caught.value.expected.startswith("4 MiB of free space")


def test_what_was_covered_is_counted(fake: Make) -> None:
    voxels = np.full((1, 64, 64), -1000, np.int16)
    voxels[:, :8, :8] = 60
    stats = segment(
        fake(make_spec((8, 8), 1), bright), make_volume(voxels), settings=SegmentSettings(overlap=0, skip_air=True)
    ).windows
    assert (stats.total, stats.batch, stats.skipped, stats.checked, stats.background) == (64, 4, 60, 4, 1.0)
    everything = segment(fake(make_spec((8, 8), 1), bright), make_volume(voxels)).windows
    assert everything.to_json() == {"total": 225, "batch": 4, "skipped": 0, "checked": 0, "background": None}


@pytest.mark.parametrize(("names", "shown"), [(("guided_1", "b"), 0), (("a", "b"), 1)])
def test_a_picture_shows_the_last_map_or_the_guided_one(
    fake: Make, tmp_path: Path, names: tuple[str, ...], shown: int
) -> None:
    from medattn_edge.io.overlay import write_overlay

    maps = RNG.random((1, len(names), 8, 8)).astype(np.float32)
    session = fake(make_spec((8, 8), 1), bright, attention=lambda patches: np.repeat(maps, len(patches), 0))
    session.attention_names = names
    volume = make_volume(RNG.normal(50, 20, (1, 8, 8)))
    found = segment(session, volume, settings=SegmentSettings(attention=True))
    scan = SimpleNamespace(series=None)
    spec: Any = session.spec
    Outputs(tmp_path / "a.npz", overlay=tmp_path / "a.png").write(found, volume, scan, spec, None)  # type: ignore[arg-type]
    assert found.attention is not None
    write_overlay(tmp_path / "b.png", volume, found.labels, found.meaning.names,
                  attention=found.attention.voxels[shown], attention_name=names[shown])  # fmt: skip
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    plain = Outputs(tmp_path / "a.npz", overlay=tmp_path / "c.png", overlay_attention=False)
    plain.write(found, volume, scan, spec, None)  # type: ignore[arg-type]
    write_overlay(tmp_path / "d.png", volume, found.labels, found.meaning.names)
    assert (tmp_path / "c.png").read_bytes() == (tmp_path / "d.png").read_bytes() != (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize("with_attention", [True, False])
def test_a_code_decides_the_colour_beside_an_attention_map_too(
    fake: Make, tmp_path: Path, with_attention: bool
) -> None:
    maps = RNG.random((1, 1, 8, 8)).astype(np.float32)
    session = fake(make_spec((8, 8), 1), bright, attention=lambda patches: np.repeat(maps, len(patches), 0))
    session.attention_names = ("a",)
    volume = make_volume(RNG.normal(50, 20, (1, 8, 8)))
    found = segment(session, volume, settings=SegmentSettings(attention=True))
    name = found.meaning.names[-1]
    pictures = []
    for number, codes in enumerate(({}, {name: Code("10200004", "SCT", "Liver")})):
        picture = tmp_path / f"{number}.png"
        outputs = Outputs(tmp_path / "a.npz", overlay=picture, overlay_attention=with_attention)
        spec: Any = replace(session.spec, codes=codes)
        outputs.write(found, volume, SimpleNamespace(series=None), spec, None)  # type: ignore[arg-type]
        pictures.append(picture.read_bytes())
    assert pictures[0] != pictures[1]


def test_a_picture_has_the_window_of_the_network(fake: Make, tmp_path: Path) -> None:
    from PIL import Image

    session = fake(make_spec((8, 8), 1), bright)
    volume = make_volume(np.linspace(-1000, 1000, 64).reshape(1, 8, 8))
    found = segment(session, volume, settings=SegmentSettings())
    spec = replace(session.spec, intensity=Intensity.parse("window:0:100"))
    Outputs(tmp_path / "a.npz", overlay=tmp_path / "a.png").write(
        found, volume, SimpleNamespace(series=None), spec, None
    )  # type: ignore[arg-type]
    with Image.open(tmp_path / "a.png") as picture:
        grey = np.array(picture.convert("L"))[60:660, 40:80]
    assert (grey[:250] == 0).all()  # all that lies below the window is black, not dark grey


def test_key_slices_are_numbered_from_one(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path / "seg.dcm", overlay=tmp_path / "a.png", key_slices=2)
    assert [path.name for path in outputs.paths] == ["seg.dcm", "a.png", "key_1.dcm", "key_2.dcm"]
    assert Outputs(tmp_path / "labels.nrrd").paths == [tmp_path / "labels.nrrd"]
    assert (outputs.dicom, Outputs(tmp_path / "labels.nrrd").dicom) == (True, False)


def test_a_volume_of_labels_has_the_scans_own_grid(fake: Make) -> None:
    volume = Volume(np.full((2, 8, 8), 100), make_volume(np.arange(24.0).reshape(2, 3, 4), (3.0, 2.0, 1.0)).affine)
    found = segment(fake(make_spec((8, 8), 1), bright), volume)
    assert np.array_equal(found.labels.affine, volume.affine)
    assert found.voxel_counts == {"label_1": 128}
    assert found.volumes_ml == {"label_1": pytest.approx(128 * 6 / 1000)}
