"""The chain of steps that a spec says: its grammar, and what each step does, held to MONAI's transforms."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from monai.transforms import (
    Compose,
    NormalizeIntensity,
    ScaleIntensity,
    ScaleIntensityRange,
    ScaleIntensityRangePercentiles,
)

from medattn_edge.errors import InputError, UsageError
from medattn_edge.inference.preprocess import prepare
from medattn_edge.spec import Intensity, ModelSpec
from tests.support.dicom_phantoms import real_ct
from tests.support.sessions import make_spec, make_volume

CHAINS = [
    "none",
    "window:-1000:400",
    "clip:-1000:400,map:-1000:400:-1:1",
    "percentile:0.5:99.5,zscore:nonzero",
    "map:1%:99%:0:1,clip:0:1",
    "clip:2%:98%,minmax",
    "zscore:slice",
    "minmax:joint",
    "normalize:-77.25:192.5",
    "normalize:0.485:0.229;normalize:0.456:0.224;normalize:0.406:0.225",
    "none;zscore",
    "clip:-1e5:0.1",
]


@pytest.mark.parametrize("text", CHAINS)
def test_a_chain_is_written_as_it_is_read(text: str) -> None:
    chain = Intensity.parse(text)
    assert Intensity.parse(str(chain)) == chain
    channels = len(chain.chains)
    spec = ModelSpec("any", channels, ("background", "a"), (8, 8), (1, 1), intensity=chain)
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))).intensity == chain


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("log", "'log' is not known"),
        ("window:1", "takes 2 numbers"),
        ("clip:3:1", "low < high"),
        ("clip:nan:1", "'nan' is no number"),
        ("clip:1:1e999", "finite"),
        ("percentile:-1:99", "between 0 and 100"),
        ("percentile:1%:99%", "percentile sign"),
        ("map:0:1:5:5", "two different numbers"),
        ("map:0:1:0%:1", "two different numbers"),
        ("normalize:0:0", "above 0"),
        ("normalize:0:1:slice", "measures nothing"),
        ("zscore:organ", "no scope of zscore"),
        ("minmax:slice:joint", "contradicts itself"),
        ("none,zscore", "none stands alone"),
        ("zscore,", "none stands alone"),
        ("zscore:joint;minmax", "one chain for all"),
        (",".join(["zscore"] * 17), "at most 16"),
    ],
)
def test_what_cannot_be_read_says_why_and_shows_a_chain_that_can(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        Intensity.parse(text)
    assert Intensity.parse(caught.value.hint.removeprefix("--intensity ").replace("clip:-1000:400:0:1", "none"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"kind": "window", "low": -1000.0, "high": 400.0, "scope": "volume"}, "window:-1000:400"),
        ({"kind": "zscore", "low": 0.0, "high": 1.0, "scope": "slice"}, "zscore:slice"),
        ({"kind": "minmax"}, "minmax"),
        ({}, "none"),
    ],
)
def test_the_fields_of_older_manifests_are_read(old: dict[str, Any], new: str) -> None:
    assert Intensity.from_json(old) == Intensity.parse(new)


@pytest.mark.parametrize("broken", [{"kind": "log"}, {"sort": "zscore"}, 7, ["zscore"], {"kind": "window", "low": "a"}])
def test_an_intensity_that_no_version_wrote_is_refused(broken: Any) -> None:
    values = ModelSpec("any", 1, ("background", "a"), (8, 8), (1, 1)).to_json()
    with pytest.raises(InputError):
        ModelSpec.from_json({**values, "intensity": broken})


@pytest.fixture(scope="module")
def scan() -> np.ndarray:
    """Real CT in HU (D, H, W), padded with zeros as registered MR often is."""
    voxels = np.asarray(real_ct().voxels, np.float32)
    voxels[:, :9] = 0
    return voxels


@pytest.mark.parametrize(
    ("text", "transform"),
    [
        ("window:-1000:400", ScaleIntensityRange(-1000, 400, 0.0, 1.0, clip=True)),
        ("clip:-1000:400,map:-1000:400:-1:1", ScaleIntensityRange(-1000, 400, -1.0, 1.0, clip=True)),
        ("map:-1000:400:-1:1", ScaleIntensityRange(-1000, 400, -1.0, 1.0, clip=False)),
        ("map:1%:99%:0:1", ScaleIntensityRangePercentiles(1, 99, 0.0, 1.0)),
        ("map:0.5%:99.5%:0:1,clip:0:1", ScaleIntensityRangePercentiles(0.5, 99.5, 0.0, 1.0, clip=True)),
        ("zscore", NormalizeIntensity()),
        ("zscore:nonzero", NormalizeIntensity(nonzero=True)),
        ("normalize:-77.25:192.5", NormalizeIntensity(subtrahend=-77.25, divisor=192.5)),
        ("minmax", ScaleIntensity(0.0, 1.0)),
        ("minmax,map:0:1:-1:1", ScaleIntensity(-1.0, 1.0)),
        (
            "clip:-200:300,zscore",
            Compose([ScaleIntensityRange(-200, 300, -200.0, 300.0, clip=True), NormalizeIntensity()]),
        ),
    ],
)
def test_a_chain_does_what_monai_does(scan: np.ndarray, text: str, transform: Callable[[Any], Any]) -> None:
    wanted = np.asarray(transform(scan[None].copy()))
    image = prepare(make_volume(scan), make_spec((4, 4), intensity=Intensity.parse(text))).image
    np.testing.assert_allclose(image, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "transform"),
    [
        ("zscore", NormalizeIntensity(channel_wise=True)),
        ("zscore:nonzero", NormalizeIntensity(nonzero=True, channel_wise=True)),
        ("zscore:joint", NormalizeIntensity()),
        ("zscore:nonzero:joint", NormalizeIntensity(nonzero=True)),
        ("map:1%:99%:0:1", ScaleIntensityRangePercentiles(1, 99, 0.0, 1.0, channel_wise=True)),
        ("map:1%:99%:0:1:joint", ScaleIntensityRangePercentiles(1, 99, 0.0, 1.0)),
        ("minmax:joint", ScaleIntensity()),
        (
            "normalize:-77.25:192.5;normalize:3:7",
            NormalizeIntensity(subtrahend=[-77.25, 3], divisor=[192.5, 7], channel_wise=True),
        ),
    ],
)
def test_channels_are_measured_each_or_jointly(scan: np.ndarray, text: str, transform: Callable[[Any], Any]) -> None:
    two = np.stack([scan, 0.25 * scan[::-1] + 40])
    wanted = np.asarray(transform(two.copy()))
    image = prepare(make_volume(two), make_spec((4, 4), channels=2, intensity=Intensity.parse(text))).image
    np.testing.assert_allclose(image, wanted, rtol=1e-5, atol=1e-5)


def test_what_a_step_measures_it_measures_behind_the_steps_before_it(scan: np.ndarray) -> None:
    chain = Intensity.parse("clip:-200:300,percentile:5:95,minmax:slice")
    image = prepare(make_volume(scan), make_spec((4, 4), intensity=chain)).image[0]
    clipped = scan.astype(np.float64).clip(-200, 300)
    clipped = clipped.clip(*np.percentile(clipped, (5, 95)))
    for seen, plane in zip(image, clipped, strict=True):
        span = plane.max() - plane.min()
        np.testing.assert_allclose(seen, (plane - plane.min()) / span if span else 0 * plane, atol=1e-6)


def test_a_spec_takes_one_chain_or_one_for_each_channel() -> None:
    with pytest.raises(UsageError, match="2 channels of a network with 3"):
        make_spec((4, 4), channels=3, intensity=Intensity.parse("zscore;minmax"))


@pytest.mark.parametrize(
    ("name", "text"),
    [("CTNormalization", "clip:-950:250,normalize:-120.5:310.25"), ("ZScoreNormalization", "zscore")],
)
def test_a_chain_does_what_nnu_net_does(scan: np.ndarray, name: str, text: str) -> None:
    module = "nnunetv2.preprocessing.normalization.default_normalization_schemes"
    schemes = pytest.importorskip(module, reason="nnunetv2 is not installed: pip install --no-deps nnunetv2")
    properties = {"mean": -120.5, "std": 310.25, "percentile_00_5": -950.0, "percentile_99_5": 250.0}
    scheme = getattr(schemes, name)(use_mask_for_norm=False, intensityproperties=properties)
    wanted = scheme.run(scan.copy())
    image = prepare(make_volume(scan), make_spec((4, 4), intensity=Intensity.parse(text))).image[0]
    np.testing.assert_allclose(image, wanted, rtol=1e-5, atol=1e-5)


def test_a_chain_does_what_torchvision_does() -> None:
    """Normalize is (x - mean) / std for every channel; these are the numbers published for ImageNet."""
    means, deviations = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    picture = np.random.default_rng(5).random((3, 1, 9, 7)).astype(np.float32)
    wanted = np.empty((3, 9, 7))
    for channel, (mean, deviation) in enumerate(zip(means, deviations, strict=True)):
        for row in range(9):
            for column in range(7):
                wanted[channel, row, column] = (float(picture[channel, 0, row, column]) - mean) / deviation
    chain = Intensity.parse("normalize:0.485:0.229;normalize:0.456:0.224;normalize:0.406:0.225")
    image = prepare(make_volume(picture), make_spec((4, 4), channels=3, intensity=chain)).image
    np.testing.assert_allclose(image[:, 0], wanted, rtol=1e-5, atol=1e-6)


def test_a_chain_does_what_nnu_net_publishes(scan: np.ndarray) -> None:
    """CTNormalization clips to the percentiles of the foreground, then (x - mean) / std, in float32 or better."""
    low, high, mean, deviation = -950.0, 250.0, -120.5, 310.25
    values = scan.astype(np.float64)
    ct = (np.where(values < low, low, np.where(values > high, high, values)) - mean) / deviation
    zscore = (values - values.sum() / values.size) / np.sqrt(((values - values.sum() / values.size) ** 2).mean())
    for text, wanted in (("clip:-950:250,normalize:-120.5:310.25", ct), ("zscore", zscore)):
        image = prepare(make_volume(scan), make_spec((4, 4), intensity=Intensity.parse(text))).image[0]
        np.testing.assert_allclose(image, wanted, rtol=1e-5, atol=1e-5)
