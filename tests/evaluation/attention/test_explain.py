"""explain: the maps are what the modules compute, what is deployed gives its own, and a fault shows where it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import onnx
import pytest
import torch

from medattn_edge.artifact import Artifact, manifest_path, sha256
from medattn_edge.backends import open_session
from medattn_edge.errors import AgreementError, InputError, OutputError, UsageError
from medattn_edge.evaluation.attention import ExplainSettings, Explanation, explain, write_explanation
from medattn_edge.evaluation.attention.agreement import agreement_of
from medattn_edge.evaluation.attention.explain import _without_names, check_copy
from medattn_edge.evaluation.attention.graft import graft_maps
from medattn_edge.evaluation.attention.networks import WithMatrices, why_no_matrices
from medattn_edge.evaluation.attention.sessions import ExplainedSession
from medattn_edge.exporters import random_patches
from medattn_edge.io import as_scan
from medattn_edge.models.checkpoint import load, save
from medattn_edge.precision.fp16_graph import to_fp16
from medattn_edge.precision.observe import floating_tensors
from medattn_edge.precision.quantizers.quantizer import Calibration, QuantizationRecipe, quantizers
from medattn_edge.precision.statistics import activation_ranges
from medattn_edge.rewrites import ALWAYS_GOOD
from medattn_edge.volume import Volume
from tests.support.forms import FORMS, build_form
from tests.support.networks import SMALL, export_checkpoint, random_network, save_checkpoint
from tests.support.scans import write_nifti
from tests.support.sync_trace import content_of, identity, traced

pytestmark = pytest.mark.slow

FAMILIES = (
    "attention-unet-monai-2d",
    "attention-unet-3d-multi",
    pytest.param("self-guided", marks=pytest.mark.slow),
    pytest.param("attention-unet-2d", marks=pytest.mark.slow),
    pytest.param("attention-unet-grid", marks=pytest.mark.slow),
)
REWRITES = tuple(ALWAYS_GOOD)
NAME = "DOE^JOHN 1970"  # of a patient, as folders have them


def scan_at(path: Path, voxels: Any) -> Path:
    """A NIfTI of 1 mm, oblique by 10 degrees, whose axes run to R, A and S."""
    angle = np.radians(10)
    turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = (turned @ np.diag([-1.0, -1, 2.5]))[:, [2, 1, 0]]
    affine[:3, 3] = (20, -30, 40)
    return write_nifti(path, Volume(voxels, affine))


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    voxels = np.random.default_rng(5).random((3, 40, 36)).astype(np.float32)
    return scan_at(tmp_path_factory.mktemp("scan") / f"{NAME}.nii.gz", voxels)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Path:
    """The small network as files have it that nobody asked for maps: rewritten, and its logits only."""
    path = tmp_path_factory.mktemp("plain") / "net.onnx"
    return export_checkpoint(small_checkpoint, path, rewrites=REWRITES).path


@pytest.fixture(scope="module")
def explained(small_checkpoint: Path, plain: Path, scan: Path) -> Explanation:
    return explain(small_checkpoint, scan, plain)


@pytest.fixture(scope="module")
def written(explained: Explanation, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_explanation(explained, tmp_path_factory.mktemp("out") / "folder")


# The eager maps


def by_hooks(network: Any, image: Any) -> dict[str, Any]:
    """Map -> (N, *spatial), from what goes into and comes out of modules; none of the network's own code for maps."""
    seen: dict[str, list[Any]] = {}
    hooks = []

    def watch(path: str, module: Any) -> None:
        hooks.append(
            module.register_forward_hook(lambda m, given, out: seen.setdefault(path, []).append((given[0], out)))
        )

    for path, module in network.named_modules():
        watch(path, module)
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()

    def resized(values: Any) -> Any:
        mode = "bilinear" if values.ndim == 4 else "trilinear"
        return torch.nn.functional.interpolate(values, size=image.shape[2:], mode=mode)[:, 0].numpy()

    if "step2.scales.0.position.attention" in seen:
        return self_guided_by_hooks(network, seen, resized)
    psi = [path for path in seen if path.endswith(".psi")]
    maps = []
    for path in psi:  # in the order in which they run: the deepest first, as the names are
        out = seen[path][0][1]
        skip = seen[path.removesuffix(".psi")][0][0]
        values = out if float(out.min()) >= 0 and "gate.psi" in path else torch.sigmoid(out)
        mode = "bilinear" if out.ndim == 4 else "trilinear"
        maps.append(resized(torch.nn.functional.interpolate(values, size=skip.shape[2:], mode=mode)))
    return dict(zip(network.attention_names, maps, strict=True))


def self_guided_by_hooks(network: Any, seen: Any, resized: Any) -> dict[str, Any]:
    maps = {}
    for index in range(4):
        scale = f"step2.scales.{index}"
        query, key = (seen[f"{scale}.position.attention.{name}"][0][1].flatten(2).numpy() for name in ("query", "key"))
        energy = np.einsum("nci,ncj->nij", query.astype(np.float64), key.astype(np.float64))
        weights = np.exp(energy - energy.max(2, keepdims=True))
        weights /= weights.sum(2, keepdims=True)
        shape = seen[scale][0][0].shape
        received = torch.from_numpy(weights.sum(1).reshape(shape[0], 1, *shape[2:]).astype(np.float32))
        maps[f"position_{index + 1}"] = resized(received)
        guided = seen[f"{scale}.refine"][0][0]  # what goes into the last convolution of the scale
        maps[f"guided_{index + 1}"] = resized(guided.abs().mean(1, keepdim=True))
        flat = seen[f"{scale}.channel.attention"][0][0].flatten(2).numpy().astype(np.float64)
        energy = flat @ flat.transpose(0, 2, 1)
        mixing = np.exp(energy.min(2, keepdims=True) - energy)
        maps[f"channel_{index + 1}"] = mixing / mixing.sum(2, keepdims=True)
    return maps


@pytest.mark.parametrize("name", FAMILIES)
def test_the_maps_of_a_scan_are_what_the_modules_compute(name: str, tmp_path: Path) -> None:
    form = FORMS[name]
    network = build_form(form)
    spec = form.spec(network)
    save(tmp_path / "net.safetensors", network, spec)
    shape = (2, *spec.patch) if len(spec.patch) == 2 else spec.patch
    voxels = np.random.default_rng(3).random((*((spec.in_channels,) if spec.in_channels > 1 else ()), *shape))
    volume = Volume(voxels.astype(np.float32), np.diag([1.0, 1, 1, 1])[[2, 1, 0, 3]])
    explanation = explain(
        tmp_path / "net.safetensors",
        write_nifti(tmp_path / "s.nii.gz", volume) if spec.in_channels == 1 else npz(tmp_path, volume),
    )
    image = torch.from_numpy(voxels.astype(np.float32)).reshape(spec.in_channels, *shape)
    image = image.transpose(0, 1) if len(spec.patch) == 2 else image[None]
    expected = by_hooks(network, image)
    assert set(expected) == {one.name for one in (*explanation.maps, *explanation.matrices)}
    attention = explanation.reference.segmentation.attention
    assert attention is not None
    for index, one in enumerate(explanation.maps):
        values = expected[one.name].reshape(shape)
        np.testing.assert_allclose(attention.voxels[index], values, rtol=1e-3, atol=1e-5 * abs(values).max())
        assert one.high - one.low > 1e-4  # a map that is the same everywhere shows nothing
        assert one.sqnr_db is None
    for index, one in enumerate(explanation.matrices):
        np.testing.assert_allclose(explanation.reference.matrices[:, index], expected[one.name], atol=2e-3)


def npz(folder: Path, volume: Volume) -> Path:
    """Channels as a file that holds them."""
    path = folder / "scan.npz"
    np.savez(path, voxels=volume.voxels, affine=volume.affine)
    return path


# What is deployed


def test_a_file_without_maps_gives_them_through_a_copy_whose_logits_are_its_own(explained: Explanation) -> None:
    source = explained.source
    assert source is not None
    assert (source.kind, dict(source.added)) == ("copy", {"Concat": 1, "Resize": 1})
    assert source.logits == {"sqnr_db": 300.0, "max_abs": 0.0}
    assert "a copy of its graph gave the deployed maps" in source.sentence
    assert "bit for bit" in source.sentence
    assert [one.name for one in explained.maps] == ["gate_2", "gate_1"]
    for one in explained.maps:
        assert one.sqnr_db is not None
        assert 100 < one.sqnr_db < 300  # another runtime's sums, not the same network run twice
        assert one.correlation == pytest.approx(1)
    assert explained.label_match == 1.0


def test_a_file_with_maps_gives_its_own(small_checkpoint: Path, small_artifact: Path, scan: Path) -> None:
    explanation = explain(small_checkpoint, scan, small_artifact, settings=ExplainSettings("openvino"))
    assert explanation.source is not None
    assert explanation.source.kind == "file"
    assert not explanation.source.added
    assert explanation.artifact is not None
    assert explanation.artifact.facts["backend"] == "openvino"
    assert min(one.sqnr_db or 0 for one in explanation.maps) > 100


def with_fault(artifact: Path, path: Path, weights: str, factor: float = 1.5) -> Path:
    """The artifact with one weight scaled, under a manifest that was made to fit."""
    model = onnx.load(str(artifact))
    [tensor] = [one for one in model.graph.initializer if one.name == weights]
    values = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, str(path))
    replace(Artifact.read(artifact).manifest, sha256=sha256(path)).write(manifest_path(path))
    return path


def test_a_fault_in_the_last_gate_shows_in_its_map_only(
    small_checkpoint: Path, plain: Path, scan: Path, tmp_path: Path
) -> None:
    faulty = with_fault(plain, tmp_path / "faulty.onnx", "decoder.1.gate.psi.0.weight")
    explanation = explain(small_checkpoint, scan, faulty)
    figures = {one.name: one.sqnr_db or 0 for one in explanation.maps}
    assert figures["gate_2"] > 100
    assert figures["gate_1"] < 40
    assert explanation.source is not None
    assert explanation.source.logits["sqnr_db"] == 300.0  # the copy has the fault as well: it is what is deployed


PRECISIONS = ("fp16", "onnxruntime", "nncf-onnx")


@pytest.fixture(scope="module")
def reduced(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The file in reduced precisions, as quantizers and the FP16 converter write them."""
    folder, artifact = tmp_path_factory.mktemp("reduced"), Artifact.read(plain)
    model, patches = onnx.load(str(plain)), [random_patches(artifact.spec, 1, seed) for seed in range(3)]
    files = {name: folder / f"{name}.onnx" for name in PRECISIONS}
    onnx.save(to_fp16(model, []), str(files["fp16"]))
    ranges = activation_ranges(model, floating_tensors(model), patches, "minmax")
    calibration = Calibration(patches, "digest", lambda: ranges)
    for name in PRECISIONS[1:]:
        recipe = QuantizationRecipe("cpu")
        quantizers()[name].quantise(artifact, model, calibration, recipe, {".onnx": files[name]})
    for name, path in files.items():
        precision = "fp16" if name == "fp16" else "int8"
        artifact.manifest.child(sha256=sha256(path), precision=precision).write(manifest_path(path))
    return files


@pytest.mark.parametrize(
    "name", [PRECISIONS[1], *(pytest.param(one, marks=pytest.mark.slow) for one in PRECISIONS[::2])]
)
def test_a_reduced_file_gives_the_maps_that_it_computes_with(
    name: str, reduced: dict[str, Path], small_checkpoint: Path, tmp_path: Path
) -> None:
    artifact = Artifact.read(reduced[name])
    graft = graft_maps(artifact, load(small_checkpoint), tmp_path / "copy.onnx")
    patches = random_patches(artifact.spec, 2, 9)
    eager = WithMatrices(load(small_checkpoint).network, artifact.spec.patch)
    with torch.no_grad():
        expected = eager.forward_attention(torch.from_numpy(patches))[1].numpy()
    with open_session(artifact.path) as session, open_session(graft.artifact.path) as copy:
        joined = ExplainedSession(session, ("gate_2", "gate_1"), copy=copy)
        _, maps = joined.run_with_attention(patches)
    assert joined.copy_distance is not None
    check_copy(joined.copy_facts() or {}, name)
    figures = [agreement_of("map", expected[:, index], maps[:, index]).sqnr_db for index in range(2)]
    assert all(25 < (figure or 0) < 95 for figure in figures), figures  # its own rounding, and not FP32's
    if name != "fp16":  # what follows reads the rounded map: no more values than 8 bits have
        assert len(np.unique(maps[0, 1])) <= 256


def test_a_copy_that_computes_something_else_is_refused(plain: Path, tmp_path: Path, small_artifact: Path) -> None:
    other = with_fault(small_artifact, tmp_path / "other.onnx", "decoder.1.gate.psi.0.weight", 1.001)
    with open_session(plain) as session, open_session(other) as copy:
        joined = ExplainedSession(session, ("gate_2", "gate_1"), copy=copy)
        joined.run_with_attention(random_patches(SMALL, 1))
    with pytest.raises(AgreementError, match="computes something else"):
        check_copy(joined.copy_facts() or {}, "net.onnx")


def test_a_tensor_that_is_not_found_again_is_refused(small_checkpoint: Path, plain: Path, tmp_path: Path) -> None:
    model = onnx.load(str(plain))
    [gate] = [node for node in model.graph.node if node.op_type == "Sigmoid" and "decoder.1" in str(node)]
    gate.op_type = "Tanh"
    onnx.save(model, str(tmp_path / "other.onnx"))
    manifest = Artifact.read(plain).manifest
    replace(manifest, sha256=sha256(tmp_path / "other.onnx")).write(manifest_path(tmp_path / "other.onnx"))
    with pytest.raises(InputError, match=r"no tensor\(s\) that are the Sigmoid of decoder.1.gate.psi"):
        graft_maps(Artifact.read(tmp_path / "other.onnx"), load(small_checkpoint), tmp_path / "copy.onnx")


@pytest.mark.slow
@pytest.mark.timeout(900)  # two exports each
@pytest.mark.parametrize("name", ["attention-unet-3d-multi", "self-guided"])
def test_the_other_families_give_their_maps_through_a_copy(name: str, tmp_path: Path) -> None:
    form = FORMS[name]
    network = build_form(form)
    spec = form.spec(network)
    save(tmp_path / "net.safetensors", network, spec)
    artifact = export_checkpoint(tmp_path / "net.safetensors", tmp_path / "net.onnx", rewrites=REWRITES)
    voxels = np.random.default_rng(2).random((1, 64, 70) if len(spec.patch) == 2 else (18, 32, 20)).astype(np.float32)
    explanation = explain(tmp_path / "net.safetensors", scan_at(tmp_path / "scan.nii.gz", voxels), artifact.path)
    assert explanation.source is not None
    assert explanation.source.kind == "copy"
    assert explanation.source.logits["sqnr_db"] >= 90
    assert not set(explanation.source.added) & {"Conv", "MatMul", "Softmax", "Sigmoid"}  # nothing is computed again
    assert all((one.sqnr_db or 0) > 100 for one in explanation.maps), explanation.maps
    assert len(explanation.matrices) == (4 if name == "self-guided" else 0)
    assert all((one.sqnr_db or 0) > 80 for one in explanation.matrices), explanation.matrices
    files = write_explanation(explanation, tmp_path / "out")
    assert ("channel attention" in files) == (name == "self-guided")


# Figures


def test_the_agreement_of_two_maps_is_numpys() -> None:
    rng = np.random.default_rng(0)
    first = (rng.random((4, 30, 20)) + 5).astype(np.float32)
    second = first + rng.normal(size=first.shape).astype(np.float32) * np.float32(0.01)
    found = agreement_of("map", first, second)
    noise = (second.astype(np.float64) - first) ** 2
    assert found.sqnr_db == pytest.approx(10 * np.log10((first.astype(np.float64) ** 2).sum() / noise.sum()))
    assert found.max_abs == pytest.approx(np.sqrt(noise.max()))
    assert found.correlation == pytest.approx(np.corrcoef(first.ravel(), second.ravel())[0, 1], abs=1e-9)
    flat = np.full_like(first, 0.5)
    assert agreement_of("map", flat, second).correlation is None
    assert agreement_of("map", first, np.where(second > 5.9, np.nan, second).astype(np.float32)).finite is False


# Files


def test_maps_and_labels_lie_on_the_scans_own_grid(written: dict[str, Path], scan: Path) -> None:
    source: Any = nibabel.load(scan)
    for what in ("labels, reference", "labels, artifact", "attention, reference", "attention, artifact"):
        image: Any = nibabel.load(written[what])
        assert image.shape[:3] == source.shape
        for form in ("sform", "qform"):
            affine, code = getattr(image.header, f"get_{form}")(coded=True)
            expected, expected_code = getattr(source.header, f"get_{form}")(coded=True)
            assert code == expected_code
            if expected is not None:
                np.testing.assert_array_equal(affine, expected)
    assert nibabel.load(written["attention, artifact"]).shape == (*source.shape, 2)  # type: ignore[attr-defined]


def test_the_files_have_the_values_of_the_explanation(written: dict[str, Path], explained: Explanation) -> None:
    attention = explained.reference.segmentation.attention
    assert attention is not None
    image: Any = nibabel.load(written["attention, reference"])
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, attention.voxels)
    assert sorted(path.name for path in written["pictures"].iterdir()) == ["gate_1.png", "gate_2.png", "labels.png"]


def test_every_byte_is_on_the_disk_before_the_folder_has_its_name(explained: Explanation, tmp_path: Path) -> None:
    with traced() as trace:
        files = write_explanation(explained, tmp_path / "out")
    assert trace.lost == []
    found = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files["page"] in found
    assert [path.name for path in found if trace.synced.get(identity(path)) != content_of(path)] == []


class Page(HTMLParser):
    """What a browser would have to repair: tags that are not closed in their order."""

    VOID = frozenset(("meta", "img", "br", "link", "hr"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_by_itself(written: dict[str, Path]) -> None:
    text = written["page"].read_text()
    page = Page(text)
    assert page.open == []
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe"}
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) >= 3 + 2 * 3
    assert all((one["src"] or "").startswith("data:image/png;base64,") and one["alt"] for one in images)
    assert not re.search(r"https?://|url\(", text)
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert {"labels", "gate_1", "gate_2"} <= ids


def test_no_name_of_a_patient_is_in_any_file(written: dict[str, Path], explained: Explanation) -> None:
    assert re.fullmatch(r"scan [0-9a-f]{12}", explained.scan)
    for path in written["page"].parent.rglob("*"):
        assert not re.search("doe|john|1970", path.name, re.IGNORECASE)
        if path.suffix in (".html", ".json"):
            shown = re.sub(r"data:image/png;base64,[^\"]*", "", path.read_text())
            assert not re.search("doe|john|1970", shown, re.IGNORECASE)


def test_a_label_full_of_markup_is_text(tmp_path: Path, scan: Path) -> None:
    evil = '</style><script>alert("1")</script>&amp;'
    spec = replace(SMALL, labels=("background", evil))
    checkpoint = tmp_path / "net.safetensors"
    save(checkpoint, random_network(spec, balanced=True), spec)
    files = write_explanation(explain(checkpoint, scan), tmp_path / "out")
    text = files["page"].read_text()
    assert "<script" not in text
    assert "&lt;/style&gt;&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;&amp;amp;" in text
    assert Page(text).open == []
    assert "Only the reference" in text


def test_a_scan_of_several_files_has_no_name_of_them_in_its_notes(tmp_path: Path) -> None:
    spec = replace(SMALL, in_channels=2, channels=("T1", "T2"))
    save(tmp_path / "net.safetensors", random_network(spec, balanced=True), spec)
    voxels = np.random.default_rng(5).random((2, 32, 32)).astype(np.float32)
    first, second = (scan_at(tmp_path / f"{NAME} {one}.nii.gz", voxels) for one in ("T1", "T2"))
    explanation = explain(tmp_path / "net.safetensors", f"T1={first}+T2={second}")
    shown = json.dumps(explanation.to_json())
    assert not re.search("doe|john|1970", shown, re.IGNORECASE)
    noted = _without_names(f"{first.name}: its sform was chosen; {second} too", as_scan(f"T1={first}+T2={second}"))
    assert noted == "the scan: its sform was chosen; the scan too"


# Refusals


def test_an_artifact_of_another_checkpoint_is_refused(plain: Path, scan: Path, tmp_path: Path) -> None:
    other = save_checkpoint(tmp_path / "other.safetensors", seed=2)
    with pytest.raises(InputError, match=r"net\.onnx was not made from other\.safetensors"):
        explain(other, scan, plain)


def test_a_network_without_gates_is_refused(scan: Path, tmp_path: Path) -> None:
    form = FORMS["attention-unet-3d-none"]
    network = build_form(form)
    save(tmp_path / "net.safetensors", network, form.spec(network))
    with pytest.raises(UsageError, match="has no attention maps"):
        explain(tmp_path / "net.safetensors", scan)


def test_a_file_that_takes_no_outputs_afterwards_is_refused(small_checkpoint: Path, scan: Path, tmp_path: Path) -> None:
    artifact = export_checkpoint(small_checkpoint, tmp_path / "net.torchscript", batch=1)
    with pytest.raises(UsageError, match=r"takes none afterwards") as refused:
        explain(small_checkpoint, scan, artifact.path)
    assert "net.onnx" in refused.value.hint
    with pytest.raises(UsageError, match=r"--runtime openvino for net\.torchscript"):
        explain(small_checkpoint, scan, artifact.path, settings=ExplainSettings("openvino"))


def test_a_folder_that_is_there_stays_as_it_is(explained: Explanation, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(UsageError, match="out exists"):
        write_explanation(explained, tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "kept"
    with pytest.raises(OutputError, match="does not exist"):
        write_explanation(explained, tmp_path / "none" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("patch", "told"), [((64, 64), ""), ((8, 64), "matrices are 16x16, and a patch of 8x64 is")])
def test_channel_attention_that_has_no_room_in_a_patch_is_said(patch: tuple[int, ...], told: str) -> None:
    text = why_no_matrices(build_form(FORMS["self-guided"]), patch)
    assert told in text
    assert bool(text) == bool(told)
    assert why_no_matrices(build_form(FORMS["attention-unet-monai-2d"]), patch) == ""
