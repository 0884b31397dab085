"""ModelSpec: what a network expects survives JSON, and what cannot be is refused with what would be right."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medattn_edge.errors import InputError, UsageError
from medattn_edge.installation import upgrade_line
from medattn_edge.spec import Code, Intensity, ModelSpec, check_patch, nearest_patch

SPEC = ModelSpec("unet", 1, ("background", "lung"), (64, 48), (16, 16))
INTENSITIES = [Intensity(), Intensity.window(-1000, 400), Intensity.parse("zscore"), Intensity.parse("minmax:slice")]


@given(
    dims=st.sampled_from([2, 3]),
    classes=st.integers(2, 5),
    one_output=st.booleans(),
    intensity=st.sampled_from(INTENSITIES),
    spaced=st.booleans(),
    order=st.permutations("DHW"),
    coded=st.booleans(),
)
def test_a_spec_survives_json(
    dims: int, classes: int, one_output: bool, intensity: Intensity, spaced: bool, order: list[str], coded: bool
) -> None:
    spec = ModelSpec(
        "unet",
        2,
        tuple(f"label_{value}" for value in range(classes)),
        (32,) * dims,
        (16,) * dims,
        spacing=(0.1, 0.7, 1.5)[:dims] if spaced else None,
        intensity=intensity,
        axes="".join(axis for axis in order if dims == 3 or axis != "D"),
        outputs=1 if one_output and classes == 2 else 0,
        config={"features": [16, 32], "attention": True},
        codes={"label_1": Code("39607008", "SCT", "Lung")} if coded else {},
    )
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_what_is_left_out_follows_from_the_rest() -> None:
    assert (SPEC.dims, SPEC.axes, SPEC.outputs, SPEC.spacing) == (2, "HW", 2, None)
    assert replace(SPEC, patch=(16,) * 3, stride=(1,) * 3, axes="").axes == "DHW"


def test_a_spec_cannot_be_changed_through_its_config() -> None:
    config = {"features": 16}
    spec = replace(SPEC, config=config)
    config["features"] = 32
    assert spec.config["features"] == 16
    with pytest.raises(TypeError):
        spec.config["features"] = 32  # type: ignore[index]


def test_a_spec_without_codes_is_written_as_before_they_were_known() -> None:
    assert "codes" not in SPEC.to_json()
    assert ModelSpec.from_json(SPEC.to_json()).codes == {}
    coded = replace(SPEC, codes={"lung": ["39607008", "SCT", "Lung"]})
    assert coded.codes["lung"].meaning == "Lung"
    assert coded.to_json()["codes"] == {"lung": ["39607008", "SCT", "Lung"]}
    with pytest.raises(TypeError):
        coded.codes["lung"] = Code("a", "b", "c")  # type: ignore[index]


@pytest.mark.parametrize(
    "codes",
    [
        {"liver": ["10200004", "SCT", "Liver"]},
        {"background": ["10200004", "SCT", "Liver"]},
        {"lung": ["", "SCT", "Lung"]},
        {"lung": ["1" * 17, "SCT", "Lung"]},
        {"lung": ["39607008", "SCT", "Lung" * 17]},
        {"lung": ["39607008", "S\\CT", "Lung"]},
        {"lung": [39607008, "SCT", "Lung"]},
        {"lung": ["39607008", "SCT"]},
        {"lung": "abc"},
        {"lung": None},
        ["lung"],
    ],
)
def test_codes_that_cannot_be_written_are_refused_by_the_spec_and_by_its_reader(codes: Any) -> None:
    with pytest.raises(UsageError, match="code"):
        replace(SPEC, codes=codes)
    with pytest.raises(InputError, match="code"):
        ModelSpec.from_json({**SPEC.to_json(), "codes": codes})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"later": 1}, r"unknown fields \['later'\](.|\n)*" + re.escape(upgrade_line())),
        ({"intensity": {"kind": "none", "later": 1}}, r"cannot be read(.|\n)*export"),
        ({"intensity": {"kind": "later"}}, "cannot be read.*later"),
        ({"patch": [64.0, 48.0]}, "cannot be read"),
        ({"patch": [63, 48]}, "cannot be read.*63x48"),
        ({"patch": 64}, "cannot be read"),
        ({"stride": [0, 16]}, "cannot be read"),
        ({"spacing": ["a", "b"]}, "cannot be read"),
    ],
)
def test_a_spec_that_cannot_be_read_is_bad_input(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ModelSpec.from_json({**SPEC.to_json(), **change})


def test_a_spec_without_its_fields_is_bad_input() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        ModelSpec.from_json({"network": "unet"})
    with pytest.raises(InputError):
        ModelSpec.from_json([1, 2])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"patch": (64,)}, "do not fit together"),
        ({"patch": (64, 64, 64, 64)}, "do not fit together"),
        ({"stride": (16,)}, "do not fit together"),
        ({"stride": (0, 16)}, "do not fit together"),
        ({"stride": (-16, 16)}, "do not fit together"),
        ({"axes": "WD"}, "do not fit together"),
        ({"axes": "DHW"}, "do not fit together"),
        ({"patch": (60, 48)}, r"60x48.*multiples of 16x16(.|\n)*--patch 64x48"),
        ({"patch": (0, 48)}, r"0x48(.|\n)*--patch 16x48"),
        ({"spacing": (1.0,)}, r"2-D network(.|\n)*--spacing 1.5x1.5"),
        ({"spacing": (1.0, 0.0)}, "positive"),
        ({"spacing": (1.0, math.nan)}, "positive"),
        ({"spacing": (1.0, math.inf)}, "positive"),
        ({"labels": ("background",)}, "--labels"),
        ({"labels": ("lung", "lung")}, "each name once"),
        ({"outputs": 3}, r"3 network outputs(.|\n)*--labels background,class_1,class_2"),
        ({"labels": ("background", "a", "b"), "outputs": 1}, "1 network outputs"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        replace(SPEC, **{"outputs": 0, "axes": "", **change})


def test_every_order_of_the_axes_is_a_3d_network() -> None:
    for order in permutations("DHW"):
        assert replace(SPEC, patch=(16,) * 3, stride=(16,) * 3, axes="".join(order)).dims == 3


def test_with_patch_keeps_the_rest() -> None:
    assert SPEC.with_patch((32, 32)) == replace(SPEC, patch=(32, 32))
    with pytest.raises(UsageError, match="2 sizes"):
        check_patch((32,), SPEC.stride)
    with pytest.raises(UsageError):
        SPEC.with_patch((33, 32))


@given(st.lists(st.tuples(st.integers(-5, 500), st.integers(1, 64)), min_size=1, max_size=3))
def test_the_nearest_patch_is_usable_and_nearest(pairs: list[tuple[int, int]]) -> None:
    patch, stride = (tuple(side) for side in zip(*pairs, strict=True))
    nearest = nearest_patch(patch, stride)
    check_patch(nearest, stride)
    for size, step, near in zip(patch, stride, nearest, strict=True):
        assert near == step if size < step else abs(near - size) <= step / 2


def test_the_nearest_patch_rounds_half_up() -> None:
    assert nearest_patch((24, 23, 8), (16, 16, 16)) == (32, 16, 16)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("window:-1000:400", Intensity.window(-1000, 400)),
        ("zscore", Intensity.parse("zscore")),
        ("minmax:slice", Intensity.parse("minmax:slice")),
        ("none", Intensity()),
    ],
)
def test_intensity_reads_the_command_lines_form(text: str, expected: Intensity) -> None:
    assert Intensity.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "window",
        "window:1",
        "window:a:b",
        "window:5:5",
        "window:nan:1",
        "window:-inf:5",
        "zscore:organ",
        "log",
        "",
        "a:b:c",
    ],
)
def test_an_intensity_that_cannot_be_read_shows_one_that_can(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Intensity.parse(text)
    assert Intensity.parse(caught.value.hint.removeprefix("--intensity "))
