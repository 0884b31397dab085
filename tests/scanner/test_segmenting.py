"""A series to results: what a worker writes is what `infer` writes, and a series it refuses has a reason."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
highdicom = pytest.importorskip("highdicom", reason="the extra dicom is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from PIL import Image  # noqa: E402

from medattn_edge.artifact import Artifact, manifest_path  # noqa: E402
from medattn_edge.backends.compiler import CompileSettings  # noqa: E402
from medattn_edge.compile.compilation import compile_artifact  # noqa: E402
from medattn_edge.errors import MedattnError, MissingDependency, OutputError, UsageError  # noqa: E402
from medattn_edge.exporters import random_patches  # noqa: E402
from medattn_edge.io import read_regions  # noqa: E402
from medattn_edge.io.dicom.volume import find_series, read_series  # noqa: E402
from medattn_edge.reasons import JOB_REASONS  # noqa: E402
from medattn_edge.scanner.config.node_config import NodeConfig  # noqa: E402
from medattn_edge.scanner.config.sections import Channel, Model  # noqa: E402
from medattn_edge.scanner.work import pool  # noqa: E402
from medattn_edge.scanner.work.segmenting import Segmenter, _shrink  # noqa: E402
from medattn_edge.scanner.work.tasks import Done, Refused, Task  # noqa: E402
from medattn_edge.spec import Cleanup  # noqa: E402
from tests.support.dicom_phantoms import real_ct, write_series  # noqa: E402
from tests.support.running_node import COMMAND, tiny_model  # noqa: E402

PATIENT = ("Phantom", "PHANTOM-1", "Synthetic")


@pytest.fixture(scope="module")
def artifact() -> Path:
    return tiny_model()


@pytest.fixture(scope="module")
def segmenter(artifact: Path) -> Iterator[Segmenter]:
    plain = Model("plain", artifact, threads=1)
    models = [
        plain,
        replace(plain, name="pictures", kind="labelmap", key_slices=2),
        replace(plain, name="planning", rtstruct=True, sr=True, probabilities=True),
        replace(plain, name="overlapping", overlap=0.25),
        replace(plain, name="airless", skip_air=True),
    ]
    with Segmenter(models) as opened:
        yield opened


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    scan = real_ct()
    return tuple(write_series(tmp_path_factory.mktemp("series"), scan.voxels, scan.affine))


def done(segmenter: Segmenter, model: str, files: tuple[Path, ...], folder: Path) -> Done:
    folder.mkdir()
    found = segmenter.work(Task(model, files, folder))
    assert isinstance(found, Done), found
    return found


def infer(artifact: Path, files: tuple[Path, ...], output: Path, *more: str) -> None:
    words = [*COMMAND, "infer", str(artifact), str(files[0].parent), "-o", str(output), "--threads", "1", *more]
    subprocess.run(words, check=True, capture_output=True, timeout=120)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".dcm"}


def test_the_files_are_byte_for_byte_those_of_infer(segmenter, artifact, files, tmp_path):
    done(segmenter, "plain", files, tmp_path / "plain")
    done(segmenter, "pictures", files, tmp_path / "pictures")
    (tmp_path / "infer").mkdir()
    infer(artifact, files, tmp_path / "infer" / "seg.dcm")
    assert contents(tmp_path / "plain") == contents(tmp_path / "infer")
    infer(artifact, files, tmp_path / "infer" / "seg.dcm", "--seg-kind", "labelmap", "--key-slices", "2")
    assert contents(tmp_path / "pictures") == contents(tmp_path / "infer")
    assert set(contents(tmp_path / "pictures")) == {"seg.dcm", "key_1.dcm", "key_2.dcm"}


def test_contours_report_and_maps_are_byte_for_byte_those_of_infer_and_the_volumes_are_told(
    segmenter, artifact, files, tmp_path
):
    found = done(segmenter, "planning", files, tmp_path / "planning")
    (tmp_path / "infer").mkdir()
    beside = ("rtstruct", "sr", "probabilities")
    more = [word for name in beside for word in (f"--{name}", str(tmp_path / "infer" / f"{name}.dcm"))]
    infer(artifact, files, tmp_path / "infer" / "seg.dcm", *more)
    assert contents(tmp_path / "planning") == contents(tmp_path / "infer")
    kinds = {"seg": "seg.dcm", **{name: f"{name}.dcm" for name in beside}, "overlay": "overlay.png"}
    assert {one.kind: one.name for one in found.outputs} == kinds
    rois = pydicom.dcmread(tmp_path / "planning" / "rtstruct.dcm").StructureSetROISequence
    assert found.volumes_ml == pytest.approx({one.ROIName: float(one.ROIVolume) for one in rois}, abs=1e-6)
    assert Done.from_json(found.to_json()) == found
    assert max(found.volumes_ml.values()) > 0


def test_the_segmentation_has_the_organ_and_the_series_in_it(segmenter, files, tmp_path):
    done(segmenter, "plain", files, tmp_path / "plain")
    seg = pydicom.dcmread(tmp_path / "plain" / "seg.dcm")
    assert 0 < seg.pixel_array.mean() < 1
    [references] = seg.ReferencedSeriesSequence
    assert {one.ReferencedSOPInstanceUID for one in references.ReferencedInstanceSequence} == {
        pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in files
    }


def test_a_second_attempt_gives_the_same_bytes_wherever_the_files_lie(segmenter, files, tmp_path):
    done(segmenter, "pictures", files, tmp_path / "first")
    (tmp_path / "moved").mkdir()
    moved = []
    for number, path in enumerate(reversed(files)):
        moved.append(tmp_path / "moved" / f"{number:032x}")
        moved[-1].write_bytes(path.read_bytes())
    done(segmenter, "pictures", tuple(moved), tmp_path / "second")
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_another_setting_is_another_object(segmenter, files, tmp_path):
    models = ("plain", "overlapping", "airless", "pictures")
    uids = {done(segmenter, model, files, tmp_path / model).outputs[0].sop_uid for model in models}
    assert len(uids) == len(models)


def test_the_result_of_corrected_objects_is_another_object_than_that_of_the_first(segmenter, files, tmp_path):
    uids = set()
    for contents in ("", "a" * 16, "b" * 16):
        (tmp_path / f"of-{contents}").mkdir()
        found = segmenter.work(Task("plain", files, tmp_path / f"of-{contents}", contents))
        uids.add(found.outputs[0].sop_uid)
    assert len(uids) == 3


def test_the_outputs_are_named_by_kind_and_identity(segmenter, files, tmp_path):
    found = done(segmenter, "pictures", files, tmp_path / "out")
    assert [(one.kind, one.name) for one in found.outputs] == [
        ("seg", "seg.dcm"),
        ("sc", "key_1.dcm"),
        ("sc", "key_2.dcm"),
        ("overlay", "overlay.png"),
    ]
    for output in found.outputs[:-1]:
        assert pydicom.dcmread(tmp_path / "out" / output.name).SOPInstanceUID == output.sop_uid
    assert {path.name for path in (tmp_path / "out").iterdir()} == {one.name for one in found.outputs}


def test_every_stage_has_its_time(segmenter, files, tmp_path):
    found = done(segmenter, "plain", files, tmp_path / "out")
    assert set(found.seconds) == {"read", "infer", "write"}
    assert all(seconds > 0 for seconds in found.seconds.values())


def test_the_thumbnail_is_small_and_holds_nothing_of_the_patient(segmenter, files, tmp_path):
    done(segmenter, "plain", files, tmp_path / "out")
    with Image.open(tmp_path / "out" / "overlay.png") as picture:
        assert max(picture.size) == 512
        assert not picture.info.keys() - {"dpi"}
    raw = (tmp_path / "out" / "overlay.png").read_bytes()
    assert not any(word.encode() in raw for word in PATIENT)


def test_the_thumbnail_shows_labels_and_no_attention_where_a_network_has_it(segmenter, files, tmp_path):
    done(segmenter, "plain", files, tmp_path / "plain")
    with Segmenter([Model("plain", tiny_model(attention=True), threads=1)]) as opened:
        assert opened._open["plain"].session.attention_names
        done(opened, "plain", files, tmp_path / "attentive")
    pictures = [(tmp_path / name / "overlay.png").read_bytes() for name in ("plain", "attentive")]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(
    ("longer", "size"), [(511, (511, 300)), (512, (512, 300)), (513, (512, 299)), (2048, (512, 75))]
)
def test_a_picture_is_shrunk_only_where_it_is_too_large(tmp_path, longer, size):
    for turned in (False, True):
        path = tmp_path / "overlay.png"
        Image.new("RGB", (300, longer) if turned else (longer, 300)).save(path)
        before = path.read_bytes()
        _shrink(path)
        with Image.open(path) as picture:
            assert picture.size == (size[::-1] if turned else size)
        assert (path.read_bytes() == before) == (longer <= 512)


def without_one(files: tuple[Path, ...]) -> tuple[Path, ...]:
    return (*files[:2], *files[3:])


def with_one_cut_short(files: tuple[Path, ...], folder: Path) -> tuple[Path, ...]:
    short = folder / "short"
    short.write_bytes(files[0].read_bytes()[:-500])
    return (short, *files[1:])


def with_one_of_noise(files: tuple[Path, ...], folder: Path) -> tuple[Path, ...]:
    noise = folder / "noise"
    noise.write_bytes(b"\0" * 128 + b"DICM" + bytes(range(256)) * 4)
    return (noise, *files[1:])


def with_another_series(files: tuple[Path, ...], folder: Path) -> tuple[Path, ...]:
    scan = real_ct()
    return (*files, *write_series(folder / "other", scan.voxels, scan.affine, SeriesInstanceUID="1.2.3.4"))


def of_a_scout(files: tuple[Path, ...], folder: Path) -> tuple[Path, ...]:
    scan = real_ct()
    return tuple(
        write_series(folder / "scout", scan.voxels, scan.affine, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    )


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (lambda files, folder: without_one(files), "missing_slice"),
        (lambda files, folder: files[:1], "single_slice"),
        (with_one_cut_short, "truncated"),
        (with_one_of_noise, "unreadable"),
        (with_another_series, "mixed_series"),
        (of_a_scout, "localizer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_series_that_cannot_be_judged_is_refused_with_its_reason(segmenter, files, tmp_path, changed, reason):
    given = changed(files, tmp_path)
    (tmp_path / "out").mkdir()
    found = segmenter.work(Task("plain", given, tmp_path / "out"))
    assert isinstance(found, Refused)
    assert found.reason == reason
    assert not list((tmp_path / "out").iterdir())
    uids = {pydicom.dcmread(files[0]).SeriesInstanceUID, pydicom.dcmread(files[0]).StudyInstanceUID}
    assert not [word for word in (*PATIENT, *uids, *(path.name for path in given)) if word in found.detail]


def test_the_volume_that_the_model_names_is_taken_as_infer_takes_it_and_stands_in_the_segmentation(artifact, tmp_path):
    scan = real_ct()
    files = []
    for number, echo in enumerate(("2.3", "4.6"), start=1):
        of_volume = {"SOPInstanceUID": lambda i, n=number: f"1.2.3.{n}.{i + 1}", "EchoTime": echo, "name": f"e{number}"}
        shared = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2.4", "FrameOfReferenceUID": "1.2.5"}
        files += write_series(tmp_path / "echoes", scan.voxels - 100 * number, scan.affine, **shared, **of_volume)
    echoes, plain = tuple(files), Model("plain", artifact, threads=1)
    models = [plain, *(replace(plain, name=f"volume-{number}", volume=number) for number in (1, 2, 3))]
    with Segmenter(models) as opened:
        uids = {done(opened, f"volume-{n}", echoes, tmp_path / f"out-{n}").outputs[0].sop_uid for n in (1, 2)}
        refused = [opened.work(Task(name, echoes, tmp_path)) for name in ("plain", "volume-3")]
    assert len(uids) == 2
    assert [one.reason for one in refused] == ["several_volumes", "no_such_volume"]
    (tmp_path / "infer").mkdir()
    infer(artifact, echoes, tmp_path / "infer" / "seg.dcm", "--volume", "2")
    assert contents(tmp_path / "out-2") == contents(tmp_path / "infer")
    seg = pydicom.dcmread(tmp_path / "out-2" / "seg.dcm")
    [references] = seg.ReferencedSeriesSequence
    referred = {one.ReferencedSOPInstanceUID for one in references.ReferencedInstanceSequence}
    assert referred == {f"1.2.3.2.{index}" for index in range(1, 7)}
    [algorithm] = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert "volume=2" in algorithm.AlgorithmParameters


# Channels of a study

NAMES = ("t1", "flair")
SHARED = {"StudyInstanceUID": "1.2.4", "FrameOfReferenceUID": "1.2.5", "modality": "MR"}


@pytest.fixture(scope="module")
def two_channels() -> Path:
    return tiny_model(in_channels=2, channels=NAMES)


def channels_in(folder: Path, **of_flair: object) -> dict[str, tuple[Path, ...]]:
    """The series of a study whose T1 and FLAIR have other voxels; the FLAIR with changes."""
    scan, found = real_ct(), {}
    for number, name in enumerate(NAMES):
        changes = {"SeriesInstanceUID": f"1.2.3.{number}", **SHARED, **(of_flair if number else {})}
        voxels = scan.voxels[:: 1 - 2 * number][: changes.pop("slices", None)]
        affine = changes.pop("affine", scan.affine)
        found[name] = tuple(write_series(folder / name, voxels, affine, **changes))
    return found


def study_task(channels: dict[str, tuple[Path, ...]], folder: Path, model: str = "glioma", contents: str = "") -> Task:
    folder.mkdir()
    return Task.of(model, [(name, channels[name]) for name in NAMES], folder, contents)


@pytest.fixture(scope="module")
def glioma(two_channels: Path) -> Iterator[Segmenter]:
    plain = Model("glioma", two_channels, threads=1, channels=tuple(Channel(name) for name in NAMES))
    pictures = replace(plain, name="pictures", key_slices=1)
    with Segmenter([plain, pictures, replace(plain, name="resampling", resample_to_first=True)]) as opened:
        yield opened


def test_a_study_is_segmented_byte_for_byte_as_infer_does_and_refers_to_its_first_channel(
    glioma, two_channels, tmp_path
):
    channels = channels_in(tmp_path)
    task = study_task(channels, tmp_path / "out")
    assert Task.from_json(task.to_json()) == task
    found = glioma.work(task)
    assert isinstance(found, Done), found
    (tmp_path / "infer").mkdir()
    joined = "+".join(f"{name}={tmp_path / name}" for name in NAMES)
    words = [*COMMAND, "infer", str(two_channels), joined, "-o", str(tmp_path / "infer" / "seg.dcm"), "--threads", "1"]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    assert contents(tmp_path / "out") == contents(tmp_path / "infer")
    seg = pydicom.dcmread(tmp_path / "out" / "seg.dcm")
    assert [one.SeriesInstanceUID for one in seg.ReferencedSeriesSequence] == ["1.2.3.0"]
    assert seg.StudyInstanceUID == "1.2.4"
    assert seg.FrameOfReferenceUID == "1.2.5"
    swapped = {"t1": channels["flair"], "flair": channels["t1"]}
    assert isinstance(glioma.work(study_task(swapped, tmp_path / "swapped")), Done)
    other = pydicom.dcmread(tmp_path / "swapped" / "seg.dcm")
    assert (other.pixel_array != seg.pixel_array).any()  # the order of the channels counts


def test_key_slices_of_a_study_show_its_first_channel(glioma, tmp_path):
    channels = channels_in(tmp_path)
    found = glioma.work(study_task(channels, tmp_path / "out", "pictures"))
    assert isinstance(found, Done), found
    picture = pydicom.dcmread(tmp_path / "out" / "key_1.dcm")
    shown = {one.ReferencedSOPInstanceUID for one in picture.SourceImageSequence}
    assert shown <= {pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in channels["t1"]}


def test_another_second_channel_or_a_corrected_one_is_another_object(glioma, tmp_path):
    uids = [
        glioma.work(study_task(channels_in(tmp_path / str(n), **change), tmp_path / f"out-{n}", "glioma", text))
        for n, (change, text) in enumerate([({}, ""), ({"SeriesInstanceUID": "1.2.3.9"}, ""), ({}, "a" * 16)])
    ]
    assert len({done.outputs[0].sop_uid for done in uids}) == 3


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"PatientID": "PHANTOM-2"}, "other_patient", "flair has another PatientID than t1"),
        ({"FrameOfReferenceUID": "1.2.6"}, "other_frame_of_reference", "flair has another FrameOfReferenceUID"),
        ({"slices": 4}, "geometry", "flair is not on the grid of t1: size"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer", "flair: 6 of 6 files are scouts"),
        ({"EchoTime": lambda i: str(1 + i % 2)}, "several_volumes", "flair: 2 volumes"),
    ],
)
def test_channels_that_do_not_belong_together_are_refused_and_the_channel_is_named(
    glioma, tmp_path, change, reason, detail
):
    found = glioma.work(study_task(channels_in(tmp_path, **change), tmp_path / "out"))
    assert isinstance(found, Refused)
    assert (found.reason, found.detail[: len(detail)]) == (reason, detail)
    assert not list((tmp_path / "out").iterdir())
    assert not [word for word in (*PATIENT, "1.2.3", "1.2.5") if word in found.detail]


def test_a_channel_on_another_grid_is_resampled_when_that_is_asked_for_and_said(glioma, tmp_path):
    scan = real_ct()
    moved = scan.affine.copy()
    moved[:3, 3] += moved[:3, 1] / 2
    channels = channels_in(tmp_path, affine=moved)
    found = glioma.work(study_task(channels, tmp_path / "out", "resampling"))
    assert isinstance(found, Done), found
    assert any("flair was resampled linearly to the grid of t1" in note for note in found.notes)
    seg = pydicom.dcmread(tmp_path / "out" / "seg.dcm")
    [algorithm] = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert "resampled=to_first" in algorithm.AlgorithmParameters


def test_after_a_refusal_the_next_series_is_segmented(segmenter, files, tmp_path):
    (tmp_path / "refused").mkdir()
    assert isinstance(segmenter.work(Task("plain", files[:1], tmp_path / "refused")), Refused)
    done(segmenter, "plain", files, tmp_path / "next")


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_series(segmenter, files, tmp_path):
    with pytest.raises(OutputError):
        segmenter.work(Task("plain", files, tmp_path / "gone"))


def test_a_model_that_does_not_open_leaves_none_open(artifact, tmp_path):
    with pytest.raises(MedattnError):
        Segmenter([Model("plain", artifact, threads=1), Model("gone", tmp_path / "gone.onnx", threads=1)])


@pytest.fixture(scope="module")
def sigmoid_artifact() -> Path:
    pytest.importorskip("scipy", reason="the extra cleanup is not installed")
    return tiny_model(
        labels=("body", "bone"),
        activation="sigmoid",
        region_order=("body", "bone"),
        cleanup=(Cleanup("largest", "body"),),
        mirror="W",
        orientation="RAS",
    )


def test_regions_that_overlap_are_segments_as_infer_writes_them(sigmoid_artifact, files, tmp_path):
    plain = Model("plain", sigmoid_artifact, threads=1)
    with Segmenter([plain, replace(plain, name="pictures", kind="labelmap", key_slices=1)]) as opened:
        assert set(opened.canaries(tmp_path)) == {"plain", "pictures"}
        found = done(opened, "plain", files, tmp_path / "plain")
        assert any("mirrored along W" in note for note in found.notes)
        assert any("largest:body" in note for note in found.notes)
        assert any("may overlap: one map for each" in note for note in found.notes)
        done(opened, "pictures", files, tmp_path / "pictures")
    (tmp_path / "infer").mkdir()
    infer(sigmoid_artifact, files, tmp_path / "infer" / "seg.dcm")
    assert contents(tmp_path / "plain") == contents(tmp_path / "infer")
    infer(sigmoid_artifact, files, tmp_path / "infer" / "seg.dcm", "--seg-kind", "labelmap", "--key-slices", "1")
    assert contents(tmp_path / "pictures") == contents(tmp_path / "infer")
    infer(sigmoid_artifact, files, tmp_path / "labels.npz", "--regions", "maps")
    regions = read_regions(tmp_path / "labels.npz")
    assert regions is not None
    body, bone = regions[0].like(read_series(find_series(files[0].parent)[0])).voxels
    seg = highdicom.seg.segread(tmp_path / "plain" / "seg.dcm")
    assert [seg.get_segment_description(number).segment_label for number in (1, 2)] == ["body", "bone"]
    assert (body & bone).any()
    frames = {1: 0, 2: 0}
    for item in seg.PerFrameFunctionalGroupsSequence:
        frames[item.SegmentIdentificationSequence[0].ReferencedSegmentNumber] += 1
    assert frames == {1: int(body.any(axis=(1, 2)).sum()), 2: int(bone.any(axis=(1, 2)).sum())}
    assert int(seg.pixel_array.sum()) == int(body.sum()) + int(bone.sum())
    labelmap = pydicom.dcmread(tmp_path / "pictures" / "seg.dcm").pixel_array
    assert [int((labelmap == value).sum()) for value in (1, 2)] == [int((body > bone).sum()), int(bone.sum())]


def test_a_model_whose_regions_a_labelmap_cannot_hold_is_refused_when_it_is_opened():
    unordered = tiny_model(labels=("body", "bone"), activation="sigmoid")
    with pytest.raises(UsageError, match=r"may overlap(.|\n)*--seg-kind binary"):
        Segmenter([Model("plain", unordered, threads=1, kind="labelmap")])


def test_a_model_whose_cleanup_this_host_cannot_do_is_refused_when_it_is_opened(sigmoid_artifact, monkeypatch):
    monkeypatch.setattr("medattn_edge.inference.cleanup.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="cleanup"):
        Segmenter([Model("plain", sigmoid_artifact, threads=1)])


@pytest.fixture(scope="module")
def ct_artifact(artifact, tmp_path_factory):
    """The same network, as one that was trained on CT."""
    path = tmp_path_factory.mktemp("ct") / "ct.onnx"
    path.write_bytes(artifact.read_bytes())
    manifest = Artifact.read(artifact).manifest
    replace(manifest, spec=replace(manifest.spec, modality="CT")).write(manifest_path(path))
    return path


def test_an_mr_is_no_scan_for_a_network_of_ct_unless_the_model_takes_any(ct_artifact, files, tmp_path):
    scan = real_ct()
    mr = tuple(write_series(tmp_path / "mr", scan.voxels, scan.affine, modality="MR"))
    model = Model("ct", ct_artifact, threads=1)
    with Segmenter([model, replace(model, name="any", any_modality=True)]) as opened:
        (tmp_path / "refused").mkdir()
        refused = opened.work(Task("ct", mr, tmp_path / "refused"))
        assert refused == Refused("other_modality", "MR images for a network of CT; expected a scan of the modality CT")
        assert list((tmp_path / "refused").iterdir()) == []
        assert JOB_REASONS[refused.reason].requeue
        assert any("the scan is MR, and the network is one of CT" in note for note in
                   done(opened, "any", mr, tmp_path / "any").notes)  # fmt: skip
        assert not any("modality" in note for note in done(opened, "ct", files, tmp_path / "right").notes)


def test_workers_of_several_devices_are_tied_to_no_core(artifact: Path, tmp_path: Path) -> None:
    if find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    compiled = tmp_path / "network.xml"
    patches = random_patches(Artifact.read(artifact).spec, 2, seed=5)
    compile_artifact(artifact, compiled, None, CompileSettings(threads=1), {"random": patches})
    models = [Model("lungs", compiled, threads=1)]
    with Segmenter(models) as only, Segmenter(models, shared_cores=True) as one_of_two:
        assert only._open["lungs"].session.facts["pinned"]
        assert not one_of_two._open["lungs"].session.facts["pinned"]
    config = NodeConfig(tmp_path, tuple(models), ())
    two = replace(config, models=(*models, Model("gpu", artifact, device="cuda")))
    assert pool._opened(config, "cpu") != pool._opened(two, "cpu"), "a reload that adds a device opens it again"
