"""Which scans a folder, a pattern and a list stand for, and what is said of everything else."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.cohort import Case, CohortSettings, ScanChoices, find_cases, is_case_source, scans_of_cases
from medattn_edge.cohort.naming import jobs_of
from medattn_edge.errors import MedattnError, ScanError, UsageError
from medattn_edge.io import write_labels
from tests.cohort.conftest import scan
from tests.support.sessions import make_spec, make_volume


def names(cases: object) -> list[str]:
    return [case.name for case in cases.cases]  # type: ignore[attr-defined]


def picture(path: Path) -> Path:
    write_labels(path, make_volume(np.ones((1, 8, 8), np.uint8), calibrated=False), ("background", "x"))
    return path


def test_a_folder_stands_for_every_scan_below_it_and_says_what_it_passes_over(scans: Path) -> None:
    write_labels(scans / "deep" / "c.nrrd", make_volume(np.ones((2, 4, 4), np.uint8)), ("background", "x"))
    write_labels(scans / "deep" / "labels.seg.nrrd", make_volume(np.ones((2, 4, 4), np.uint8)), ("background", "x"))
    picture(scans / "d.png")
    (scans / "readme.txt").write_text("no scan")
    (scans / "._a.nii.gz").write_bytes(b"\x00\x05\x16\x07")
    (scans / "out").mkdir()
    scan(scans / "out" / "a_labels.nii.gz", 3)
    (scans / "link").symlink_to(scans / "deep")
    (scans / "gone.nii.gz").symlink_to(scans / "nowhere.nii.gz")
    found = find_cases([scans], apart_from=scans / "out")
    assert names(found) == ["a", "d", "b", "c"]
    assert [case.folder for case in found.cases] == ["scans", "scans", "deep", "deep"]
    text = "\n".join(found.notes)
    for passed in ("1 hidden files", "1 segmentations (.seg.nrrd)", "1 files of other kinds",
                   "1 folders behind a symbolic link", "1 names that lead to no file"):  # fmt: skip
        assert f"passed over: {passed}" in text
    assert "4 files of known formats in folders or behind patterns were taken for scans" in text
    assert names(find_cases([scans / "deep", scans / "a.nii.gz"])) == ["a", "b", "c"]


def test_a_pattern_stands_for_the_files_that_it_fits(scans: Path) -> None:
    assert names(find_cases([f"{scans}/**/*.nii*"])) == ["a", "b"]
    assert names(find_cases([f"{scans}/dee?"])) == ["b"]
    with pytest.raises(ScanError, match="no file fits"):
        find_cases([f"{scans}/*.mha"])
    odd = scan(scans / "b[1].nii.gz", 3)  # a file that is there is itself, whatever is in its name
    assert names(find_cases([odd])) == ["b[1]"]
    assert not is_case_source(odd)


def test_results_are_no_scans(scans: Path) -> None:
    with pytest.raises(UsageError, match="lies in the folder of the results"):
        find_cases([scans], apart_from=scans)
    with pytest.raises(UsageError, match="lies in the folder of the results"):
        find_cases([f"{scans}/*.nii.gz"], apart_from=scans)


def test_what_is_not_there_or_holds_no_scan_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="does not exist"):
        find_cases([tmp_path / "nowhere"])
    (tmp_path / "readme.txt").write_text("no scan")
    with pytest.raises(ScanError, match=r"no scan in .*passed over: 1 files of other kinds"):
        find_cases([tmp_path])


def test_a_list_names_its_cases_from_its_own_folder(scans: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("\ufeffcase;scan\none;scans/a.nii.gz\n\n;scans/deep/b.nii\nthree;scans/nowhere.nii\n", "utf-8")
    found = find_cases([table])
    assert names(found) == ["one", "b", "three"]
    assert [case.shown for case in found.cases] == ["scans/a.nii.gz", "scans/deep/b.nii", "scans/nowhere.nii"]
    assert found.cases[2].error is not None
    assert "line 5 of the list" in found.cases[2].error.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,case\na.nii,x\n", "has the columns path, case"),
        ("", "an empty file"),
        ("scan,scan\na,b\n", "has the columns scan, scan"),
        ("scan,case\na.nii\n", "1 cells in line 2"),
        ('scan,case\n"a.nii,x\n', "cannot be read in line 2"),
        (b"scan\n\xff.nii\n", "it is not UTF-8"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused_as_a_whole(tmp_path: Path, text: str | bytes, words: str) -> None:
    (tmp_path / "l.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ScanError, match=words):
        find_cases([tmp_path / "l.csv"])


def test_a_list_gives_further_channels_by_name_and_the_first_is_the_one_that_is_left(tmp_path: Path) -> None:
    for number, name in enumerate(("x", "y", "z")):
        scan(tmp_path / f"{name}.nii", number)
    (tmp_path / "l.csv").write_text("case,scan,t2,t1\none,x.nii,y.nii,z.nii\ntwo,x.nii,,z.nii\n")
    one, two = find_cases([tmp_path / "l.csv"]).cases
    spec = replace(make_spec((8, 8), 2, 3), channels=("t1", "flair", "t2"))
    assert one.scan is not None
    assert one.scan.assignment(spec) == ("t1 <- z.nii", "flair <- x.nii", "t2 <- y.nii")
    voxels = one.scan.read_for(spec).voxels
    expected = [find_cases([tmp_path / f"{name}.nii"]).cases[0].scan.read().voxels for name in "zxy"]  # type: ignore[union-attr]
    np.testing.assert_array_equal(voxels, np.stack(expected))
    with pytest.raises(UsageError, match="the further channels t2, t1"):
        one.scan.assignment(replace(make_spec((8, 8), 2, 2), channels=("t1", "t2")))
    assert "has nothing for t2" in str(two.error)


def test_one_name_for_two_cases_is_refused_and_the_folder_tells_them_apart(scans: Path) -> None:
    scan(scans / "deep" / "a.nii", 3)
    cases = find_cases([scans]).cases
    with pytest.raises(UsageError, match=r"two cases would write a_labels.nii.gz") as error:
        jobs_of(cases, CohortSettings())
    assert str(scans / "a.nii.gz") in error.value.message
    assert str(scans / "deep" / "a.nii") in error.value.message
    assert error.value.hint == "--name '{folder}_{case}_labels.nii.gz'"
    jobs = jobs_of(cases, CohortSettings("{folder}_{case}_labels.nii.gz", overlay="{folder}_{case}.png"))
    assert [job.name for job in jobs] == ["scans_a", "deep_a", "deep_b"]
    assert jobs[1].names == ("deep_a_labels.nii.gz", "deep_a.png", "deep_a.json")


def test_outputs_of_two_kinds_and_two_cases_never_share_a_name() -> None:
    cases = [Case("a", None, "1"), Case("a_labels", None, "2")]
    with pytest.raises(UsageError, match=r"two cases would write a_labels.png"):
        jobs_of(cases, CohortSettings("{case}_labels.png", overlay="{case}.png"))
    with pytest.raises(UsageError, match="two outputs of a have one name"):
        jobs_of(cases[:1], CohortSettings("{case}.png", overlay="{case}.png"))


@pytest.mark.parametrize(
    "pattern",
    ["labels.nii.gz", "{}.nii.gz", "{case", "{case!r}.nii.gz", "{case:>9}.nii.gz", "{name}.nii.gz", "x/{case}.nii.gz",
     "{case.name}.nii.gz", "{case}.foo", "{case}.mha", "{{x}}{case}.nii.gz"],
)  # fmt: skip
def test_a_pattern_of_names_that_cannot_be_used_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError):
        jobs_of([Case("a", None, "a")], CohortSettings(pattern))


@pytest.mark.parametrize("name", ["../x", "x/y", ".hidden", "n" * 190, "a\0b"])
def test_a_name_that_is_no_plain_file_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="the name"):
        jobs_of([Case(name, None, "a")], CohortSettings())


def test_the_scans_of_cases_are_all_or_none(scans: Path, tmp_path: Path) -> None:
    found, _ = scans_of_cases([scans])
    assert [one.name for one in found] == ["a.nii.gz", "b.nii"]
    (tmp_path / "l.csv").write_text(f"scan\n{scans / 'a.nii.gz'}\n{scans / 'nowhere.nii'}\n")
    with pytest.raises(MedattnError, match="does not exist"):
        scans_of_cases([tmp_path / "l.csv"])


def test_dicom_trees_are_series_that_are_told_by_their_hash(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from tests.support.dicom_phantoms import real_ct, write_series

    ct = real_ct(4, 16, 16)
    john, jane = tmp_path / "tree" / "DOE_JOHN", tmp_path / "tree" / "ROE_JANE"
    uid = "1.2.826.0.1.3680043.8.498."
    write_series(john / "one", ct.voxels, ct.affine, PatientName="DOE^JOHN", SeriesInstanceUID=uid + "1")
    write_series(john / "two", ct.voxels, ct.affine, PatientName="DOE^JOHN", SeriesInstanceUID=uid + "2")
    files = write_series(jane / "gap", ct.voxels, ct.affine, PatientName="ROE^JANE", SeriesInstanceUID=uid + "3")
    Path(files[1]).unlink()
    beside = write_series(jane / "cut", ct.voxels, ct.affine, PatientName="ROE^JANE", SeriesInstanceUID=uid + "4")
    (jane / "cut" / "half.dcm").write_bytes(Path(beside[0]).read_bytes()[:150])
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_series(jane / "scout", ct.voxels[:1], ct.affine, ImageType=scout, SeriesInstanceUID=uid + "5")
    scan(tmp_path / "tree" / "c.nii.gz", 1)
    found = find_cases([tmp_path / "tree"])
    reasons = {case.name: getattr(case.error, "reason", None) for case in found.cases}
    assert list(reasons.values()).count(None) == 3  # c.nii.gz and both of the first patient
    assert sorted(filter(None, reasons.values())) == ["broken_neighbour", "missing_slice", "unreadable"]
    assert reasons["unnamed_1"] == "unreadable"
    assert [one.code for one in found.left_out] == ["localizer"]
    dicom = [case for case in found.cases if case.name != "c"]
    said = [text for case in dicom for text in (case.name, case.shown, case.folder, str(case.error), repr(case))]
    said += [str(one) for one in (*found.left_out, *found.notes)]
    assert not [text for text in said if "DOE" in text or "ROE" in text or uid in text]
    asked = find_cases([tmp_path / "tree"], ScanChoices(dicom_paths=True))
    assert str(john / "one") in [case.shown for case in asked.cases]
    both, _ = scans_of_cases([john])
    assert [one.series.hash for one in both if one.series] == [case.name for case in dicom[:2]]
    only, _ = scans_of_cases([john / "one"])
    assert [one.path for one in only] == [john / "one"]


def test_dicom_files_behind_a_pattern_are_their_series(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from tests.support.dicom_phantoms import real_ct, write_series

    ct = real_ct(4, 16, 16)
    write_series(tmp_path / "ct", ct.voxels, ct.affine)
    [case] = find_cases([f"{tmp_path}/ct/*"]).cases
    assert case.scan is not None
    np.testing.assert_array_equal(case.scan.read().voxels, ct.voxels)
    assert os.path.commonpath([tmp_path, *case.scan.files]) == str(tmp_path)
