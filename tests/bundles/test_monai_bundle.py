"""A MONAI bundle gives a network and a spec that answer as MONAI's own inference does, or says what has no place."""

from __future__ import annotations

import copy
import functools
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medattn_edge.backends import open_session
from medattn_edge.bundles import OwnersFolder, kind_of_folder, read_folder
from medattn_edge.errors import CheckpointError, InputError, UsageError
from medattn_edge.exporters import export_fp32, random_patches
from medattn_edge.inference import segment
from medattn_edge.inference.preprocess import prepare
from medattn_edge.inference.tiling import gaussian
from medattn_edge.io import read_volume, write_labels
from medattn_edge.rewrites import rewrite
from tests.support.networks import randomised

monai = pytest.importorskip("monai")
nibabel = pytest.importorskip("nibabel")


def warnings_of_the_peer(function: Any) -> Any:
    """MONAI warns of readers that are not installed."""

    @functools.wraps(function)
    def quiet(*arguments: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*arguments)

    return quiet


UNET = {
    "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3,
    "channels": [4, 8], "strides": [2], "norm": "batch",
}  # fmt: skip
ATTENTION = {
    "_target_": "AttentionUnet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3,
    "channels": [4, 8, 16], "strides": [2, 2],
}  # fmt: skip
PREPROCESSING = [
    {"_target_": "LoadImaged", "keys": "image"},
    {"_target_": "EnsureChannelFirstd", "keys": "image"},
    {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
    {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
    {
        "_target_": "ScaleIntensityRanged", "keys": "image",
        "a_min": -57, "a_max": 164, "b_min": 0.0, "b_max": 1.0, "clip": True,
    },
    {"_target_": "EnsureTyped", "keys": "image"},
]  # fmt: skip
POSTPROCESSING = [
    {"_target_": "Activationsd", "keys": "pred", "softmax": True},
    {
        "_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
        "nearest_interp": False, "to_tensor": True,
    },
    {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
    {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"},
]  # fmt: skip
METADATA = {
    "name": "organs",
    "version": "0.1.0",
    "network_data_format": {
        "inputs": {"image": {"type": "image", "modality": "CT", "num_channels": 1, "spatial_shape": [16, 16, 8]}},
        "outputs": {"pred": {"num_channels": 3, "channel_def": {"0": "background", "1": "Spleen", "2": "left kidney"}}},
    },
}
INFERER = {
    "_target_": "SlidingWindowInferer", "roi_size": [16, 24, 8], "sw_batch_size": 4, "overlap": 0.5, "mode": "gaussian",
}  # fmt: skip


def inference(network: dict[str, Any] = UNET, **sections: Any) -> dict[str, Any]:
    """A bundle's inference.json, some of its sections replaced."""
    usual = {
        "imports": ["$import glob"],
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": PREPROCESSING},
        "inferer": INFERER,
        "postprocessing": {"_target_": "Compose", "transforms": POSTPROCESSING},
    }
    return copy.deepcopy({**usual, **sections})


def compose(*transforms: dict[str, Any]) -> dict[str, Any]:
    return {"_target_": "Compose", "transforms": list(transforms)}


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Path]:
    """Writes a bundle."""

    def write(
        document: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None, weights: Any = None
    ) -> Path:
        document = document or inference()
        folder = tmp_path / "organs_bundle"
        for name in ("configs", "models"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "configs" / "inference.json").write_text(json.dumps(document))
        (folder / "configs" / "metadata.json").write_text(json.dumps(METADATA if metadata is None else metadata))
        torch.save(weights or network_of(document).state_dict(), folder / "models" / "model.pt")
        return folder

    return write


def network_of(document: dict[str, Any]) -> Any:
    from monai.networks import nets

    torch.manual_seed(0)
    definition = dict(document["network_def"])
    return randomised(getattr(nets, definition.pop("_target_").rpartition(".")[2])(**definition))


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A CT of stored orientation LAS, in the bundle's own spacing, with structures in it."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(50, 120, (10, 12, 6))
    voxels = np.kron(coarse, np.ones((4, 4, 4))) + rng.normal(0, 5, (40, 48, 24))
    affine = np.diag([-1.5, 1.5, 2.0, 1.0])
    affine[:3, 3] = [30.0, -20.0, 10.0]
    path = tmp_path / "ct.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.float32), affine), path)
    return path


def labels_of_monai(folder: Path, scan: Path, weights: Any = None) -> np.ndarray[Any, Any]:
    """What MONAI gives with the bundle's transforms and inferer as it builds them, (i, j, k) of the file."""
    from monai.bundle import ConfigParser

    document = json.loads((folder / "configs" / "inference.json").read_text())
    document["postprocessing"]["transforms"] = [
        one for one in document["postprocessing"]["transforms"] if one["_target_"] != "SaveImaged"
    ]
    return peer_labels(ConfigParser(document), folder, scan, weights)  # type: ignore[no-any-return]


@warnings_of_the_peer
def peer_labels(parser: Any, folder: Path, scan: Path, weights: Any) -> np.ndarray[Any, Any]:
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    data = parser.get_parsed_content("preprocessing")({"image": str(scan)})
    with torch.inference_mode():
        inferer, image = parser.get_parsed_content("inferer"), data["image"][None]
        if weights is None:
            data["pred"] = inferer(image, network.eval())[0]
        else:  # the same windows, averaged with these weights
            data["pred"] = monai.inferers.sliding_window_inference(
                image, inferer.roi_size, 4, network.eval(), inferer.overlap, roi_weight_map=torch.from_numpy(weights)
            )[0]
    return np.asarray(parser.get_parsed_content("postprocessing")(data)["pred"][0])


def labels_of_ours(read: OwnersFolder, scan: Path, tmp_path: Path) -> np.ndarray[Any, Any]:
    """The whole way: an ONNX file, its session, the scan's own grid; (i, j, k) of the file."""
    spec = read.checkpoint.spec
    artifact = export_fp32(
        rewrite(read.checkpoint, ("batch-norm",)), tmp_path / "net.onnx", {"random": random_patches(spec, 1)}
    )
    with open_session(artifact.path) as session:
        found = segment(session, read_volume(scan)).labels
    stored = nibabel.load(scan)
    path = tmp_path / "labels.nii.gz"
    write_labels(path, found, spec.labels)
    written = nibabel.load(path)
    np.testing.assert_allclose(written.affine, stored.affine, atol=1e-4)
    return np.asarray(written.dataobj)


@pytest.mark.parametrize("network", [UNET, ATTENTION], ids=["a network of MONAI's", "one that is ours too"])
def test_the_labels_are_monais_where_windows_do_not_overlap(
    bundle: Callable[..., Path], scan: Path, tmp_path: Path, network: dict[str, Any]
) -> None:
    folder = bundle(inference(network, inferer={**INFERER, "roi_size": [20, 16, 8], "overlap": 0.0}))
    expected = labels_of_monai(folder, scan)
    found = labels_of_ours(read_folder(folder), scan, tmp_path)
    assert len(np.unique(expected)) > 1, "labels of one value prove nothing"
    assert np.array_equal(expected, found)


@pytest.mark.parametrize(("said", "overlap"), [({"overlap": 0.5}, 0.5), ({"overlap": [0.4] * 3}, 0.4), ({}, 0.25)])
def test_where_windows_overlap_only_monais_least_weight_makes_a_difference(
    bundle: Callable[..., Path], scan: Path, tmp_path: Path, said: dict[str, Any], overlap: float
) -> None:
    inferer = {key: value for key, value in INFERER.items() if key != "overlap"} | said
    folder = bundle(inference(inferer=inferer))
    read = read_folder(folder)
    assert read.checkpoint.spec.overlap == overlap
    whose = "as in the bundle" if said else "as MONAI's where a bundle says nothing"
    assert any(f"overlap by {overlap:g}, {whose}" in text for text in read.assumptions)
    assert any("below 0.001" in text for text in read.assumptions)
    found = labels_of_ours(read, scan, tmp_path)
    if overlap == 0.5:  # where both put the same windows
        assert np.array_equal(labels_of_monai(folder, scan, gaussian(read.checkpoint.spec.patch)), found)
    assert (labels_of_monai(folder, scan) == found).mean() > (0.9 if overlap == 0.5 else 0.75)


@pytest.mark.parametrize("overlap", [1.0, -0.1, "half", True, [0.5, 0.5, 0.25], []])
def test_an_overlap_that_windows_here_cannot_have_is_refused(bundle: Callable[..., Path], overlap: Any) -> None:
    with pytest.raises(InputError, match="one fraction of the patch for every axis"):
        read_folder(bundle(inference(inferer={**INFERER, "overlap": overlap})))


def test_the_spec_is_what_metadata_and_transforms_say(bundle: Callable[..., Path]) -> None:
    read = read_folder(bundle())
    spec = read.checkpoint.spec
    assert (spec.orientation, spec.axes, spec.spacing) == ("RAS", "WHD", (2.0, 1.5, 1.5))
    assert str(spec.intensity) == "window:-57:164"
    assert (spec.labels, spec.patch) == (("background", "spleen", "left_kidney"), (16, 24, 8))
    assert (spec.activation, spec.modality, spec.cleanup) == ("softmax", "CT", ())
    assert any("Spacingd" in text for text in read.assumptions)
    assert not read.checkpoint.foreign


def test_a_layout_that_is_ours_keeps_its_maps_and_rewrites(bundle: Callable[..., Path]) -> None:
    checkpoint = read_folder(bundle(inference(ATTENTION))).checkpoint
    assert checkpoint.spec.network == "attention-unet-monai"
    assert checkpoint.network.attention_names
    assert checkpoint.spec.labels[1] == "spleen"


def test_strides_that_the_keys_cannot_tell_are_taken_from_the_bundle(bundle: Callable[..., Path]) -> None:
    read = read_folder(bundle(inference({**ATTENTION, "strides": [[2, 2, 1], [2, 2, 1]]})))
    assert read.checkpoint.spec.network in ("monai-bundle", "attention-unet-monai")
    assert tuple(read.checkpoint.network(torch.zeros(1, 1, 16, 24, 8)).shape) == (1, 3, 16, 24, 8)


def test_nothing_of_a_bundle_is_run(bundle: Callable[..., Path], tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    document = inference(imports=[f"$open({str(mark)!r}, 'w')"], evil=f"$open({str(mark)!r}, 'w')")
    read_folder(bundle(document))
    document["network_def"] = {**UNET, "out_channels": f"$open({str(mark)!r}, 'w') and 3"}
    with pytest.raises(InputError, match="an expression, which would have to be run"):
        read_folder(bundle(document, weights={"a": torch.zeros(1)}))
    document["network_def"] = {"_target_": "os.system", "command": f"touch {mark}"}
    with pytest.raises(InputError, match="code of another package than MONAI"):
        read_folder(bundle(document, weights={"a": torch.zeros(1)}))
    assert not mark.exists()


def test_references_and_literals_are_followed(bundle: Callable[..., Path]) -> None:
    document = inference({**UNET, "out_channels": "@classes"}, classes="$3", window="$[16, 24, 8]")
    document["inferer"]["roi_size"] = "@window"
    network = {**UNET, "out_channels": 3}
    from monai.networks.nets import UNet

    weights = UNet(**{key: value for key, value in network.items() if key != "_target_"}).state_dict()
    assert read_folder(bundle(document, weights=weights)).checkpoint.spec.patch == (16, 24, 8)


@warnings_of_the_peer
def peer_image(folder: Path, scan: Path) -> Any:
    from monai.bundle import ConfigParser

    parser = ConfigParser(json.loads((folder / "configs" / "inference.json").read_text()))
    return parser.get_parsed_content("preprocessing")({"image": str(scan)})["image"]


LOAD = PREPROCESSING[:3]
INTENSITIES = [
    ({"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True}, "zscore:nonzero"),
    ({"_target_": "NormalizeIntensityd", "keys": "image", "subtrahend": 90, "divisor": 40}, "normalize:90:40"),
    ({"_target_": "ScaleIntensityd", "keys": ["image"]}, "minmax"),
    ({"_target_": "ScaleIntensityd", "keys": ["image"], "minv": -1.0, "maxv": 1.0}, "minmax,map:0:1:-1:1"),
    (
        {"_target_": "ScaleIntensityRangePercentilesd", "keys": "image", "lower": 1, "upper": 99, "b_min": 0,
         "b_max": 1, "clip": True},
        "map:1%:99%:0:1,clip:0:1",
    ),
    (
        {"_target_": "monai.transforms.ScaleIntensityRanged", "keys": "image", "a_min": -100, "a_max": 300,
         "b_min": -1, "b_max": 1, "clip": True},
        "clip:-100:300,map:-100:300:-1:1",
    ),
    ({"_target_": "ScaleIntensityRangeD", "keys": "image", "a_min": 0, "a_max": 255}, "map:0:255:0:1"),
]  # fmt: skip


@pytest.mark.parametrize(("transform", "text"), INTENSITIES, ids=[text for _, text in INTENSITIES])
def test_intensities_are_monais_on_a_real_grid(
    bundle: Callable[..., Path], scan: Path, transform: dict[str, Any], text: str
) -> None:
    folder = bundle(inference(preprocessing=compose(*LOAD, transform)))
    spec = read_folder(folder).checkpoint.spec
    assert str(spec.intensity) == text
    expected = peer_image(folder, scan)
    prepared = prepare(read_volume(scan), replace(spec, axes="DHW", patch=spec.patch[::-1], stride=spec.patch[::-1]))
    np.testing.assert_allclose(prepared.image, np.asarray(expected).transpose(0, 3, 2, 1), atol=1e-4)


def test_regions_come_of_sigmoids_and_a_threshold(bundle: Callable[..., Path]) -> None:
    metadata = copy.deepcopy(METADATA)
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = {"0": "WT", "1": "TC", "2": "ET"}  # type: ignore[index]
    post = compose(
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
        {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [0]},
    )
    spec = read_folder(bundle(inference(postprocessing=post), metadata)).checkpoint.spec
    assert (spec.activation, spec.labels) == ("sigmoid", ("wt", "tc", "et"))
    assert [str(step) for step in spec.cleanup] == ["largest:wt"]


REFUSED = [
    ({"preprocessing": compose(*LOAD, {"_target_": "CropForegroundd", "keys": "image", "source_key": "image"})},
     r"CropForegroundd\(keys='image', source_key='image'\) has no place in a spec"),
    ({"preprocessing": compose(*LOAD, {**PREPROCESSING[3], "mode": "nearest"})}, "mode='nearest'"),
    ({"preprocessing": compose(*LOAD, {**PREPROCESSING[4], "surprise": 1})}, "surprise"),
    ({"preprocessing": compose(*LOAD, PREPROCESSING[4], PREPROCESSING[3])}, "after intensities were changed"),
    ({"postprocessing": compose({"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.3})}, "threshold=0.3"),
    ({"postprocessing": compose({"_target_": "VoteEnsembled", "keys": "pred"})}, "VoteEnsembled is not known"),
    ({"postprocessing": compose()}, "no activation and nothing"),
    ({"inferer": {"_target_": "SimpleInferer"}}, "SimpleInferer"),
    ({"inferer": {**INFERER, "padding_mode": "reflect"}}, "padding_mode"),
    ({"network_def": {**UNET, "_target_": "NoSuchNet"}}, "NoSuchNet is none of monai.networks.nets"),
    ({"network_def": {**UNET, "surprise": 3}}, "MONAI cannot build UNet"),
    ({"inferer": "@nowhere"}, "refers to @nowhere"),
]  # fmt: skip


@pytest.mark.parametrize(("sections", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_has_no_place_is_named_and_refused(
    bundle: Callable[..., Path], sections: dict[str, Any], words: str
) -> None:
    weights = network_of(inference()).state_dict()
    with pytest.raises(InputError, match=words) as refused:
        read_folder(bundle(inference(**sections), weights=weights))
    assert refused.value.expected
    assert refused.value.hint


def test_a_bundle_without_an_orientation_asks_for_it(bundle: Callable[..., Path]) -> None:
    folder = bundle(inference(preprocessing=compose(*PREPROCESSING[:2], PREPROCESSING[4])))
    with pytest.raises(UsageError, match="brings scans to no orientation"):
        read_folder(folder)
    read = read_folder(folder, orientation="ras")
    assert read.checkpoint.spec.orientation == "RAS"
    assert any("RAS" in text for text in read.assumptions)


def test_an_orientation_that_contradicts_the_bundle_is_refused(bundle: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="for a bundle that says RAS"):
        read_folder(bundle(), orientation="LPS")


def test_weights_of_another_network_are_refused(bundle: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match=r"model\.pt does not fit the network"):
        read_folder(bundle(weights={"conv.weight": torch.zeros(3)}))


def test_metadata_that_is_missing_cut_or_incomplete_is_named(bundle: Callable[..., Path]) -> None:
    folder = bundle()
    path = folder / "configs" / "metadata.json"
    path.write_text('{"network_data_format": ')
    with pytest.raises(InputError, match="is not valid JSON"):
        read_folder(folder)
    path.write_text("[]")
    with pytest.raises(InputError, match="holds a list"):
        read_folder(folder)
    path.write_text('{"network_data_format": {"inputs": {}}}')
    with pytest.raises(InputError, match=r"has no network_data_format\.inputs\.image"):
        read_folder(folder)
    path.unlink()
    with pytest.raises(InputError, match=r"metadata\.json does not exist"):
        read_folder(folder)


def test_a_bundle_is_the_reference_of_what_was_made_from_it(bundle: Callable[..., Path]) -> None:
    from medattn_edge.foreign import SourceOptions, SourceReference

    folder = bundle()
    made = read_folder(folder).checkpoint
    reference = SourceReference.read(folder, SourceOptions(), made.spec, (made.sha256,))
    patches = random_patches(made.spec, 1)
    with torch.inference_mode(), reference.open(threads=1) as session:
        expected = made.network(torch.from_numpy(patches)).numpy()
        np.testing.assert_allclose(session.run(patches), expected, rtol=1e-6, atol=1e-6)
    assert reference.spec == made.spec
    with pytest.raises(UsageError, match="1 channels, and the candidate one of 2"):
        SourceReference.read(folder, SourceOptions(spec=replace(made.spec, in_channels=2)), made.spec)
    with pytest.raises(UsageError, match="for a bundle that says RAS"):
        SourceReference.read(folder, SourceOptions(), replace(made.spec, orientation="LPS"))


def test_a_folder_of_neither_kind_is_none(tmp_path: Path) -> None:
    assert kind_of_folder(tmp_path) is None
    with pytest.raises(InputError, match="neither a MONAI bundle nor"):
        read_folder(tmp_path)
