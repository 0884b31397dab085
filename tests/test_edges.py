"""Every limit of a gate or of a geometry, tried just inside and just outside of it.

Far beyond a limit any other limit would do as well. The numbers are written out: to change one is a decision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.agreement import Agreement, LogitsDistance, Thresholds, of_labels
from medattn_edge.errors import GeometryError
from medattn_edge.evaluation.bisect import CutLayer, LayerFigures
from medattn_edge.evaluation.disagreement import RuntimeOutcome
from medattn_edge.evaluation.disagreement import judge as judge_runtimes
from medattn_edge.evidence.checks import deadline_check
from medattn_edge.gates import GATES, TRUE_LABELS, Gate
from medattn_edge.io.grids import gather
from medattn_edge.io.nifti_forms import forms_of
from medattn_edge.io.overlay import write_overlay
from medattn_edge.labels import Meaning
from medattn_edge.precision.judge import Judge
from medattn_edge.precision.windows import ScanSource
from medattn_edge.volume import Array, Volume
from tests.precision.scans import LPS, SPEC, brighter_than, every_window

pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from medattn_edge.io.dicom.geometry import grid_of
from medattn_edge.io.dicom.volume import ImagePlane, RefusedSeries
from tests.support.image_planes import planes

# ------------------------------------------------------------------------------------------------------------- gates

PERFECT = Agreement(0.0, 300.0, 1.0, {"organ": 1.0}, {"organ": 0.0}, 0, 0, True, 300.0, 300.0)
STEPS = {"dice": 1e-5, "sqnr_db": 0.01, "label_match": 1e-6, "fp64_sqnr_db": 0.01}
LIMITS = {
    "fp32": {"min_sqnr_db": 90.0, "min_label_match": 0.9999, "max_noise_gain_db": 12.0,
             "min_fp64_sqnr_db": 75.0, "enough_fp64_sqnr_db": 110.0},
    "fp16": {"min_dice": 0.9995, "min_sqnr_db": 40.0},
    "fp16 on noise": {"min_sqnr_db": 40.0},
    "int8": {"min_dice": 0.999},
    "with true labels": {"min_dice": 0.99, "min_true_dice_share": 0.999, "max_true_dice_share": 1.01},
    "fp16 and int8 in a runtime": {"min_dice": 0.999, "min_sqnr_db": 30.0},
    "fp16 and int8 in a runtime, on noise": {},
    "compare": {"min_dice": 0.999},
    "runtimes on one graph": {"max_gap_db": 6.0, "clip_db": 100.0},
    "one layer of a candidate": {"min_matched": 0.5, "min_fp32_db": 90.0, "min_fp16_db": 40.0, "min_int8_db": 12.0,
                                 "enough_int8_db": 20.0, "max_int8_loss_db": 12.0, "max_saturated_gain": 0.05},
    "the same answer after it was timed": {"min_sqnr_db": 30.0},
    "deadline of one run": {"max_miss_rate": 0.01},
    "a ratio of times": {"max_quartile_ratio": 2.0, "max_others_share": 0.25, "min_idle_share": 0.5},
    "a copy that answers attention maps": {"min_sqnr_db": 90.0},
    "something to judge": {"min_reference_true_dice": 0.1},
    "a training to warn of": {"long_s": 3600.0, "measured_steps": 3},
    "colours of labels": {"min_distance": 10.0, "min_drawn_distance": 25.0, "min_grey_distance": 40.0},
    "lungs that were drawn": {"min_dice": 0.98},
    "canary of a server": {"min_label_match": 0.99, "min_sqnr_db": 30.0},
    "values of a CT": {"lowest_of_ct": -100.0, "air_hu": -500.0},
}  # fmt: skip
FLOORS = [
    (gate, figure, limit)
    for gate in GATES
    for figure, limit in gate.limits.items()
    if figure in ("min_dice", "min_sqnr_db", "min_label_match", "min_fp64_sqnr_db")
]


def test_the_table_is_the_one_that_is_tried_here() -> None:
    assert {gate.name: dict(gate.limits) for gate in GATES} == LIMITS


@pytest.mark.parametrize(("gate", "figure", "limit"), FLOORS, ids=[f"{one.name}: {name}" for one, name, _ in FLOORS])
def test_a_gate_holds_at_its_limit_and_fails_just_below(gate: Gate, figure: str, limit: float) -> None:
    name = figure.removeprefix("min_")

    def failures(value: float) -> list[str]:
        return gate.thresholds.failures(replace(PERFECT, **{name: {"organ": value} if name == "dice" else value}))

    assert failures(limit) == []
    assert failures(limit + STEPS[name]) == []
    assert len(failures(limit - STEPS[name])) == 1
    assert len(failures(math.nan)) == 1


@pytest.mark.parametrize(("share", "fails"), [(0.999, 0), (0.99899, 1), (1.01, 0), (1.01001, 1), (math.nan, 1)])
def test_a_share_of_the_true_dice_holds_at_both_limits_and_fails_just_beyond(share: float, fails: int) -> None:
    judged = replace(PERFECT, reference_dice={"organ": 0.5}, candidate_dice={"organ": 0.5 * share})
    assert len(TRUE_LABELS.thresholds.failures(judged)) == fails


@pytest.mark.parametrize(("name", "figure"), [("max_abs", "max_abs"), ("max_volume_change_percent", "volume")])
def test_a_ceiling_holds_at_its_limit_and_fails_just_above(name: str, figure: str) -> None:
    def failures(value: float) -> list[str]:
        changed = {"max_abs": value} if figure == "max_abs" else {"volume_change_percent": {"organ": value}}
        return Thresholds(**{name: 0.5}).failures(replace(PERFECT, **changed))

    assert failures(0.5) == []
    assert len(failures(0.5001)) == 1
    assert bool(failures(-0.5001)) == (figure == "volume")


@pytest.mark.parametrize(
    ("reference_db", "limit", "from_reference"),
    [
        (100.0, 88.0, 86.06),  # 12 dB below the reference's own distance; both together, 10 ** -4.4 + 10 ** -5
        (122.0, 110.0, 90.0),
        (125.0, 110.0, 90.0),  # enough
        (87.0, 75.0, 73.06),
        (86.0, 75.0, 72.84),  # no further, and BF16 begins here
        (60.0, 75.0, 43.0),
    ],
)
def test_the_limit_from_fp64_follows_the_reference_between_its_bounds(
    reference_db: float, limit: float, from_reference: float
) -> None:
    (fp32,) = (gate.thresholds for gate in GATES if gate.name == "fp32")
    given = fp32.given_noise(reference_db)
    assert given.min_fp64_sqnr_db == limit
    expected = -20 * math.log10(10 ** (-limit / 20) + 10 ** (-reference_db / 20))
    assert given.min_sqnr_db == pytest.approx(min(90.0, expected), abs=0.006)
    if reference_db > 60:
        assert given.min_sqnr_db == pytest.approx(from_reference, abs=0.02)
    noise = replace(PERFECT, reference_fp64_sqnr_db=reference_db)
    assert given.failures(replace(noise, fp64_sqnr_db=limit)) == []
    assert len(given.failures(replace(noise, fp64_sqnr_db=limit - 0.01))) == 1


@pytest.mark.parametrize(
    ("precision", "attainable_db", "limit"),
    [
        ("fp32", None, 90.0),
        ("fp16", None, 40.0),
        ("int8", 33.0, 20.0),  # enough
        ("int8", 32.0, 20.0),
        ("int8", 31.0, 19.0),  # 12 dB below what 8 bits hold
        ("int8", 24.0, 12.0),
        ("int8", 23.0, 12.0),  # a quarter of the signal is gone
    ],
)
def test_a_layer_holds_at_the_limit_of_its_precision_and_leaves_just_below(
    precision: str, attainable_db: float | None, limit: float
) -> None:
    layer = CutLayer("decoder.0", "Conv", ("Conv",), (1, 1), ("a",), ("b",), (), (), ())

    def leaves(local_db: float, saturated: tuple[float, float] | None = None) -> bool:
        ranges = (0.0, 1.0), (0.0, 1.0)
        return LayerFigures(layer, precision, *ranges, 0.0, saturated, 300.0, local_db, 300.0, attainable_db).leaves

    assert not leaves(limit)
    assert leaves(limit - 0.01)
    assert leaves(math.nan)
    assert leaves(-math.inf)
    assert not leaves(limit, (0.1, 0.15))
    assert leaves(limit, (0.1, 0.1501))


@pytest.mark.parametrize(("late", "verdict"), [(0, "pass"), (1, "pass"), (2, "fail")])
def test_a_deadline_may_be_missed_once_in_a_hundred_runs(late: int, verdict: str) -> None:
    row = {"artifact": "net.onnx", "backend": "onnxruntime", "p99_ms": 5.0, "miss_rate": late / 100, "rounds": 100}
    assert deadline_check(["net.onnx"], [row], 5.0).verdict == verdict


@pytest.mark.parametrize(("wrong", "fails"), [(12, True), (8, False)])  # Dice 0.9994 and 0.9996 of 20,000 voxels
def test_voxels_become_the_dice_that_the_gate_of_fp16_is_held_to(wrong: int, fails: bool) -> None:
    reference = np.zeros((2, 125, 160), np.uint8)
    reference.reshape(-1)[:20_000] = 1
    candidate = reference.copy()
    candidate.reshape(-1)[:wrong] = 0  # 2 (n - w) / (2 n - w) is 1 - w / 2 n, nearly
    candidate.reshape(-1)[-wrong:] = 1
    (fp16,) = (gate.thresholds for gate in GATES if gate.name == "fp16")
    agreement = of_labels(reference, candidate, Meaning.of(SPEC), LogitsDistance(signal=1.0))
    assert agreement.dice["organ"] == 1 - wrong / 20_000
    assert bool(fp16.failures(agreement)) == fails


RAMP = np.linspace(0, 1, 2048, dtype=np.float32).reshape(8, 16, 16)  # one window a slice, no voxel twice
ORGAN = 1000  # of the ramp's values are above the level
LEVEL = (2048 - ORGAN - 0.5) / 2047


def level(less: int) -> float:
    """The level above which so many values fewer lie."""
    return LEVEL + less / 2047


@pytest.mark.parametrize(("gate", "less", "fails"), [(0.999, 1, False), (0.999, 3, True), (0.9985, 3, False)])
@pytest.mark.parametrize("truth", [False, True])
def test_int8_is_held_to_its_gate_voxel_by_voxel(gate: float, less: int, fails: bool, truth: bool) -> None:
    """1 of 1,000 is a Dice of 0.9995, 3 are 0.9985; with true labels that FP32 has right, so is the share."""
    labels = Volume((level(0) < RAMP).astype(np.uint8), LPS)
    source = ScanSource("ramp", lambda: Volume(RAMP, LPS), (lambda _: labels) if truth else None)
    verdict = Judge(brighter_than(level(0)), every_window(source), Thresholds(gate - 1e-5)).judge(
        brighter_than(level(less))
    )
    assert verdict.dice == pytest.approx(1 - less / (2 * ORGAN - less), abs=1e-9)
    assert verdict.holds is not fails


def outcome(runtime: str, db: float, *, as_written: bool = False) -> RuntimeOutcome:
    return RuntimeOutcome(runtime, (replace(PERFECT, sqnr_db=db),), as_written=as_written)


@pytest.mark.parametrize(
    ("written", "other", "refused"),
    [(50.0, 44.0, False), (50.0, 43.99, True), (130.0, 94.0, False), (130.0, 93.99, True), (100.0, 94.0, False)],
)
def test_a_runtime_may_lose_a_bit_and_no_more(written: float, other: float, refused: bool) -> None:
    ruling = judge_runtimes([outcome("plain", written, as_written=True), outcome("fast", other)])
    assert ruling.refused == (("fast",) if refused else ())


@pytest.mark.parametrize(("best", "doubted"), [(12.0, False), (11.99, True)])
def test_a_graph_that_is_nearly_wrong_tells_no_runtimes_apart(best: float, doubted: bool) -> None:
    ruling = judge_runtimes([outcome("plain", best, as_written=True), outcome("fast", best - 3)])
    assert ruling.refused == ()
    assert bool(ruling.note) == doubted


# ------------------------------------------------------------------------------------------------- slices of a series

STEP, DOWN, RIGHT = 4.0, 1.5, 1.25
GRID = np.diag((STEP, DOWN, RIGHT, 1.0))[[2, 1, 0, 3]]


def stack(count: int = 5, step: float = STEP, heights: list[float] | None = None) -> list[ImagePlane]:
    """Slices along S, H to P, W to L; heights in mm."""
    affine = np.array(GRID)
    affine[2, 0] = step
    return planes(affine, [mm / step for mm in heights or [step * index for index in range(count)]])


def moved(slices: list[ImagePlane], number: int, *, beside: float = 0.0, along: float = 0.0) -> list[ImagePlane]:
    left, back, up = slices[number].position
    changed = list(slices)
    changed[number] = replace(slices[number], position=(left + beside, back, up + along))
    return changed


def turned(degrees: float, *, in_plane: bool) -> list[ImagePlane]:
    """The third slice turned about the normal, or about its rows."""
    one, c, s = stack()[2], math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = {"right": (c, s, 0.0), "down": (-s, c, 0.0)} if in_plane else {"down": (0.0, c, s)}
    return [*stack()[:2], replace(one, **turn), *stack()[3:]]


def sheared(degrees: float, count: int) -> list[ImagePlane]:
    """Every slice a little further to the side, by an angle with the normal."""
    slices = stack(count)
    beside = math.tan(math.radians(degrees)) * STEP
    return [moved(slices, number, beside=number * beside)[number] for number in range(count)]


def scaled(factor: float) -> list[ImagePlane]:
    first, second, *rest = stack()
    return [first, replace(second, spacing=(DOWN, RIGHT * factor)), *rest]


def in_two_halves(count: int, gap: float) -> list[ImagePlane]:
    """`count` gaps of 1 mm and then as many of another."""
    heights = [float(index) for index in range(count + 1)]
    return stack(step=1.0, heights=[*heights, *(count + gap * index for index in range(1, count + 1))])


def gap_of(step: float, more: float) -> list[ImagePlane]:
    """One gap that is longer than the others."""
    return stack(step=step, heights=[0, step, 2 * step, 3 * step + more, 4 * step + more])


SLICES: dict[str, tuple[str, Callable[[], list[ImagePlane]], Callable[[], list[ImagePlane]]]] = {
    "turned by a degree": ("mixed_orientation", lambda: turned(0.05, in_plane=True), lambda: turned(1, in_plane=True)),
    "turned": ("mixed_orientation", lambda: turned(0.057, in_plane=True), lambda: turned(0.058, in_plane=True)),
    "tipped": ("mixed_orientation", lambda: turned(0.057, in_plane=False), lambda: turned(0.058, in_plane=False)),
    "other pixels": ("mixed_series", lambda: scaled(1 + 0.9e-4), lambda: scaled(1 + 1.1e-4)),
    "smaller pixels": ("mixed_series", lambda: scaled(1 - 0.9e-4), lambda: scaled(1 - 1.1e-4)),
    "displaced by 5 %": (
        "non_uniform_spacing",
        lambda: moved(stack(), 2, along=0.0297),
        lambda: moved(stack(), 2, along=0.05 * STEP),
    ),
    "displaced": (
        "non_uniform_spacing",
        lambda: moved(stack(), 2, along=0.0297),
        lambda: moved(stack(), 2, along=0.0300),
    ),
    "a longer gap": ("non_uniform_spacing", lambda: gap_of(4.0, 0.0595), lambda: gap_of(4.0, 0.0605)),
    "a longer gap of thin slices": ("non_uniform_spacing", lambda: gap_of(1.0, 0.0295), lambda: gap_of(1.0, 0.0305)),
    "gaps that drift": ("non_uniform_spacing", lambda: in_two_halves(25, 1.02), lambda: in_two_halves(26, 1.02)),
    "beside": (
        "shifted_slice",
        lambda: moved(stack(), 2, beside=0.25 * RIGHT - 0.001),
        lambda: moved(stack(), 2, beside=0.25 * RIGHT + 0.001),
    ),
    "a long stack that leans": ("gantry_tilt", lambda: sheared(0.099, 101), lambda: sheared(0.101, 101)),
    "a short stack that leans": ("gantry_tilt", lambda: sheared(1.11, 5), lambda: sheared(1.13, 5)),
    "a slice left out": ("missing_slice", lambda: stack(), lambda: stack(heights=[0, 4, 12, 16])),
    "one slice": ("single_slice", lambda: stack(2), lambda: stack(1)),
}


@pytest.mark.parametrize("name", SLICES)
def test_slices_just_inside_a_limit_are_a_grid_and_just_outside_are_refused(name: str) -> None:
    reason, inside, outside = SLICES[name]
    assert len(grid_of(inside()).planes) == len(inside())
    with pytest.raises(RefusedSeries) as caught:
        grid_of(outside())
    assert caught.value.reason == reason


@pytest.mark.parametrize(("apart", "reason"), [(0.009, "duplicate_position"), (0.011, "missing_slice")])
def test_slices_a_hundredth_of_a_millimetre_apart_are_one_place(apart: float, reason: str) -> None:
    with pytest.raises(RefusedSeries) as caught:
        grid_of(stack(heights=[0, 4, 8, 8 + apart, 12, 16]))
    assert caught.value.reason == reason


def test_what_is_missing_is_counted_and_placed() -> None:
    with pytest.raises(RefusedSeries) as caught:
        grid_of(stack(heights=[0, 4, 16, 20, 28]))
    assert caught.value.detail == "3 missing, the first gap after slice 2 of 5"
    with pytest.raises(RefusedSeries) as caught:
        grid_of(moved(stack(), 3, beside=2.0))
    assert caught.value.detail == "slice 4 lies 2.00 mm beside"


# ------------------------------------------------------------------------------------------------ grids of two volumes

VOXELS = np.random.default_rng(0).integers(-1000, 1000, (6, 7, 8)).astype(np.int16)


def scan(affine: Array = GRID) -> Volume:
    return Volume(VOXELS, affine)


def shifted(millimetres: float, affine: Array = GRID) -> Array:
    changed = np.array(affine)
    changed[1, 3] += millimetres
    return changed


def shared(affine: Array) -> bool:
    try:
        return gather([scan(), scan(affine)], ["a", "b"]).volume.channels == 2
    except GeometryError:
        return False


@pytest.mark.parametrize(("millimetres", "same"), [(0.0124, True), (-0.0124, True), (0.0126, False), (-0.0126, False)])
def test_channels_share_a_grid_within_a_hundredth_of_the_smallest_voxel(millimetres: float, same: bool) -> None:
    assert shared(shifted(millimetres)) is same


@pytest.mark.parametrize(("factor", "same"), [(1 + 0.0124 / 8.75, True), (1 + 0.0126 / 8.75, False)])
def test_the_far_corner_counts(factor: float, same: bool) -> None:
    wider = np.array(GRID)
    wider[:3, 2] *= factor
    assert shared(wider) is same


@pytest.mark.parametrize(("millimetres", "same"), [(0.0009, True), (0.0011, False)])
def test_labels_are_turned_like_a_scan_within_a_thousandth_of_a_millimetre(millimetres: float, same: bool) -> None:
    turned = scan(shifted(millimetres)).oriented("ASR")
    if same:
        assert np.array_equal(turned.like(scan()).affine, GRID)
    else:
        with pytest.raises(GeometryError):
            turned.like(scan())


@pytest.mark.parametrize(("millimetres", "same"), [(0.0099, True), (0.0101, False)])
def test_an_overlay_needs_the_labels_on_the_scan(millimetres: float, same: bool, tmp_path: Path) -> None:
    labels = Volume((VOXELS > 0).astype(np.uint8), shifted(millimetres))
    if same:
        write_overlay(tmp_path / "a.png", scan(), labels, ("background", "organ"))
        assert (tmp_path / "a.png").stat().st_size > 100
    else:
        with pytest.raises(GeometryError):
            write_overlay(tmp_path / "a.png", scan(), labels, ("background", "organ"))


# ---------------------------------------------------------------------------------------------------- forms of a NIfTI

nibabel = pytest.importorskip("nibabel", reason="the extra nifti is not installed")
SFORM = np.diag((-2.0, 2.0, 5.0, 1.0))


def header(sform: Array, qform: Array, *, codes: tuple[int, int] = (1, 1)) -> object:
    image = nibabel.Nifti1Image(VOXELS, None)
    image.set_qform(qform, codes[1])
    image.set_sform(sform, codes[0])
    return image.header


def contradict(sform: Array, qform: Array, **more: tuple[int, int]) -> bool:
    try:
        forms_of(Path("in.nii"), header(sform, qform, **more), VOXELS.shape)
    except GeometryError:
        return True
    return False


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("percent", "apart"), [(0.98, False), (-0.98, False), (1.02, True), (-1.02, True)])
@pytest.mark.parametrize("codes", [(2, 1), (1, 0)])
def test_spacings_of_two_forms_may_differ_by_a_hundredth(
    axis: int, percent: float, apart: bool, codes: tuple[int, int]
) -> None:
    other = np.array(SFORM)
    other[axis, axis] *= 1 + percent / 100
    assert contradict(other, SFORM, codes=codes) is apart


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("voxels", "apart"), [(0.49, False), (-0.49, False), (0.51, True), (-0.51, True)])
def test_two_forms_of_the_same_coordinates_may_be_half_a_voxel_apart(axis: int, voxels: float, apart: bool) -> None:
    other = np.array(SFORM)
    other[axis, 3] += voxels * abs(SFORM[axis, axis])
    assert contradict(other, SFORM) is apart
    assert contradict(other, SFORM, codes=(2, 1)) is False


@pytest.mark.parametrize(("length", "read"), [(0.9e-3, True), (1.1e-3, False)])
def test_a_quaternion_that_is_too_long_is_rounding_up_to_a_thousandth(length: float, read: bool) -> None:
    made = header(SFORM, SFORM, codes=(0, 1))
    made["quatern_b"], made["quatern_c"], made["quatern_d"] = 0, math.sqrt(1 + length), 0  # type: ignore[index]
    if read:
        form = forms_of(Path("in.nii"), made, VOXELS.shape).affine
        assert np.allclose(np.linalg.norm(form[:3, :3], axis=0), (2, 2, 5), rtol=1e-6)
    else:
        with pytest.raises(Exception, match="no qform"):
            forms_of(Path("in.nii"), made, VOXELS.shape)


@pytest.mark.parametrize(("shear", "kept"), [(0.9e-4, True), (1.1e-4, False)])
def test_a_grid_that_a_qform_cannot_say_is_written_without_one(shear: float, kept: bool, tmp_path: Path) -> None:
    from medattn_edge.io import write_labels

    affine = np.array(GRID)
    affine[1, 2] = shear * RIGHT / math.sqrt(1 - shear**2)
    write_labels(tmp_path / "labels.nii.gz", Volume((VOXELS > 0).astype(np.uint8), affine), ("background", "organ"))
    assert bool(nibabel.load(tmp_path / "labels.nii.gz").header["qform_code"]) is kept
