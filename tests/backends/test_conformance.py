"""What every backend promises, for every file that each opens: its record is all that it takes to be tested.

The files are made by an exporter, or by a compiler from what an exporter made; what a server computes is served on
loopback.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medattn_edge.agreement import LogitsDistance
from medattn_edge.artifact import Artifact, manifest_path, sha256
from medattn_edge.backends import backends, missing_packages, open_session
from medattn_edge.backends.compiler import CompileSettings, compilers
from medattn_edge.backends.torch.session import TorchSession
from medattn_edge.compile.compilation import compile_artifact
from medattn_edge.errors import (
    BackendError,
    HostError,
    InputError,
    IntegrityError,
    MedattnError,
    ShapeError,
    UsageError,
)
from medattn_edge.exporters import ExportSettings, exporters, random_patches
from medattn_edge.installation import upgrade_line
from medattn_edge.models import checkpoint as checkpoints
from tests.support.networks import export_checkpoint, gated_spec, save_checkpoint
from tests.support.sessions import FakeSession
from tests.support.triton_server import TritonServer

BACKENDS = backends()
CHECKPOINT = ".safetensors"
# Of the suffixes of checkpoints one is enough: the reading of all of them is tested with the networks.
OPENED = [
    (name, suffix)
    for name, record in BACKENDS.items()
    for suffix in ([CHECKPOINT] if CHECKPOINT in record.suffixes else record.suffixes)
]
SPEC = gated_spec((32, 16), channels=2, labels=("background", "right_lung", "left_lung"))
GARBAGE: tuple[Any, ...] = (None, 5, -1, True, 0.5, "x", [], [1], ["x"], {}, {"x": None})


def three_times(patches: np.ndarray) -> np.ndarray:
    """Logits: the first channel times 1, 2, 3."""
    return np.concatenate([factor * patches[:, :1] for factor in (1, 2, 3)], axis=1)


@pytest.fixture(scope="module", autouse=True)
def _threads():
    """A session sets torch's threads for the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small gated network, as a file."""
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "network.safetensors", SPEC, 2)


@pytest.fixture(scope="module")
def file_of(checkpoint, tmp_path_factory) -> Iterator[Callable[..., Path]]:
    """The file with a suffix: the checkpoint, what an exporter makes of it, or what a compiler makes of that."""
    made: dict[Any, Path] = {}
    servers = ExitStack()

    def make(suffix: str, settings: ExportSettings) -> Path:
        if suffix == CHECKPOINT:
            return checkpoint
        if (suffix, settings) not in made:
            path = tmp_path_factory.mktemp("made") / f"network{suffix}"
            made[suffix, settings] = path
            if suffix == ".triton":
                servers.enter_context(TritonServer(make(".onnx", settings))).file(path)
            elif any(suffix in one.suffixes for one in exporters().values()):
                export_checkpoint(checkpoint, path, batch=settings.batch, attention=settings.attention)
            else:
                compile_artifact(
                    make(".onnx", settings), path, None, CompileSettings(threads=1), {"more": random_patches(SPEC, 2)}
                )
        return made[suffix, settings]

    with servers:
        yield make


@pytest.fixture(params=OPENED, ids=["".join(one) for one in OPENED])
def opened(request):
    """Every backend with every suffix in turn."""
    name, suffix = request.param
    missing = missing_packages(BACKENDS[name])
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    if any(suffix in one.suffixes and "compute_capabilities" in one.settings for one in compilers().values()):
        pytest.skip(f"{suffix} is compiled for a GPU and runs on nothing else")
    return BACKENDS[name], suffix


@pytest.fixture
def backend(opened):
    """The record of the backend."""
    return opened[0]


@pytest.fixture
def file(opened, file_of):
    """Its file: any batch, with attention maps."""
    return file_of(opened[1], ExportSettings(batch=None, attention=True))


@pytest.fixture
def artifact(file, tmp_path):
    """A copy of its artifact that a test may break."""
    if not manifest_path(file).is_file():
        pytest.skip("a checkpoint has no manifest")
    for suffix in ("", *Artifact.read(file).manifest.companions):
        source = file.with_suffix(suffix) if suffix else file
        (tmp_path / source.name).write_bytes(source.read_bytes())
    copied = tmp_path / file.name
    manifest_path(copied).write_bytes(manifest_path(file).read_bytes())
    return copied


@pytest.fixture
def fixed_artifact(opened, file_of):
    """Its artifact of batch 2 without attention maps."""
    path = file_of(opened[1], ExportSettings(batch=2))
    if not manifest_path(path).is_file():
        pytest.skip("a checkpoint takes any batch and has maps")
    return path


@pytest.fixture
def session(backend, file):
    with open_session(file, backend=backend.name) as opened:
        yield opened


@pytest.fixture
def patches():
    return random_patches(SPEC, 3, seed=4)


@pytest.fixture(scope="module")
def eager(checkpoint):
    """The reference's answer, logits and maps."""
    network = checkpoints.load(checkpoint).network

    def answer(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            logits, maps = network.forward_attention(torch.from_numpy(np.array(patches)))
        return logits.numpy(), maps.numpy()

    return answer


def sqnr(expected: np.ndarray, found: np.ndarray) -> float:
    distance = LogitsDistance()
    distance.add(expected, found)
    return distance.sqnr_db


def test_it_answers_as_eager_does_in_float32_of_the_promised_shape(session, eager, patches):
    logits = session.run(patches)
    assert logits.dtype == np.float32
    assert logits.shape == (3, 3, 32, 16)
    assert sqnr(eager(patches)[0], logits) >= 90


def test_it_names_and_returns_the_attention_maps(session, eager, patches):
    logits, maps = session.run_with_attention(patches)
    assert len(session.attention_names) == eager(patches)[1].shape[1] > 0
    assert maps.dtype == np.float32
    assert maps.shape == (3, len(session.attention_names), 32, 16)
    assert sqnr(eager(patches)[1], maps) >= 90
    np.testing.assert_array_equal(logits, session.run(patches))


def test_the_answer_belongs_to_the_caller(session, patches):
    first, (_, maps) = session.run(patches), session.run_with_attention(patches)
    kept, kept_maps = first.copy(), maps.copy()
    second = session.run(patches[::-1].copy())
    session.run_with_attention(patches * 2)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(maps, kept_maps)
    second[:] = 0
    np.testing.assert_array_equal(session.run(patches), kept)
    assert not np.shares_memory(first, patches)


def test_the_input_is_not_changed_and_need_not_be_writable(session, patches):
    expected = session.run(patches)
    before = patches.copy()
    patches.flags.writeable = False
    np.testing.assert_array_equal(session.run(patches), expected)
    np.testing.assert_array_equal(patches, before)


def test_the_input_need_not_be_contiguous(session, patches):
    strided = np.asfortranarray(np.repeat(patches, 2, axis=0))[::2]
    assert not strided.flags.c_contiguous
    np.testing.assert_allclose(session.run(strided), session.run(patches), rtol=1e-5, atol=1e-6)


def test_one_patch_alone_answers_as_among_others(session, patches):
    together = session.run(patches)
    for index in range(len(patches)):
        assert sqnr(together[index : index + 1], session.run(patches[index : index + 1])) >= 90


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros((1, 3, 32, 16), np.float32), r"float32 \(N, 2, 32, 16\)(.|\n)*inspect"),
        (np.zeros((1, 2, 32, 16), np.float64), r"float64(.|\n)*float32"),
        (np.zeros((1, 2, 32, 16), ">f4"), "float32"),
        (np.zeros((2, 32, 16), np.float32), r"\(N, 2, 32, 16\)"),
        (np.zeros((1, 2, 8, 32, 16), np.float32), r"\(N, 2, 32, 16\)"),
        (np.zeros((), np.float32), r"\(N, 2, 32, 16\)"),
        (np.zeros((0, 2, 32, 16), np.float32), "at least one"),
        (np.zeros((1, 2, 33, 16), np.float32), "33"),
    ],
    ids=["channels", "float64", "big-endian", "no batch", "3-D", "scalar", "empty", "size"],
)
def test_patches_that_do_not_fit_are_refused_with_what_would(session, wrong, said):
    for run in (session.run, session.run_with_attention):
        with pytest.raises(ShapeError, match=said) as refused:
            run(wrong)
        assert refused.value.hint


def test_another_size_is_taken_unless_the_patch_is_fixed(session, eager):
    patches = random_patches(SPEC.with_patch((16, 24)), 2)
    if session.fixed_patch:
        with pytest.raises(ShapeError, match="--patch 16x24"):
            session.run(patches)
    else:
        assert sqnr(eager(patches)[0], session.run(patches)) >= 90


def test_a_fixed_batch_takes_no_other(backend, fixed_artifact, eager):
    patches = random_patches(SPEC, 2)
    with open_session(fixed_artifact, backend=backend.name) as session:
        assert session.batch == 2
        assert sqnr(eager(patches)[0], session.run(patches)) >= 90
        with pytest.raises(ShapeError, match="--batch dynamic"):
            session.run(patches[:1])


def test_attention_without_maps_is_refused(backend, fixed_artifact):
    with (
        open_session(fixed_artifact, backend=backend.name) as session,
        pytest.raises(UsageError, match=r"no attention output(.|\n)*--attention"),
    ):
        session.run_with_attention(random_patches(SPEC, 2))


def test_it_says_what_ran_where(session, backend, file):
    assert session.spec == SPEC
    assert session.facts["backend"] == backend.name
    assert (session.facts["device"], session.facts["requested_device"]) == ("cpu", "auto")
    assert json.loads(json.dumps(session.facts)) == session.facts


def test_the_threads_are_an_option_and_do_not_change_the_answer(backend, file, eager, patches):
    for threads in (1, 2):
        with open_session(file, backend=backend.name, threads=threads) as session:
            assert session.facts["threads"] == threads
            assert sqnr(eager(patches)[0], session.run(patches)) >= 90
    with pytest.raises(UsageError, match="0 or more"):
        open_session(file, backend=backend.name, threads=-1)


def test_two_sessions_of_one_file_do_not_disturb_each_other(backend, file, patches):
    with open_session(file, backend=backend.name) as first:
        before = first.run(patches)
        with open_session(file, backend=backend.name) as second:
            np.testing.assert_array_equal(second.run(patches), before)
        np.testing.assert_array_equal(first.run(patches), before)


def test_closing_twice_does_no_harm(backend, file, patches):
    with open_session(file, backend=backend.name) as session:
        session.run(patches)
        session.close()
    session.close()


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:", "cuda:x", "CPU", "cpu:0", "Auto", ""])
def test_a_device_that_nobody_knows_is_refused(backend, file, device):
    with pytest.raises(UsageError, match=r"auto, cpu or cuda:INDEX(.|\n)*--device auto"):
        open_session(file, backend=backend.name, device=device)


def test_a_gpu_that_is_not_there_is_an_error_and_never_the_cpu(backend, file):
    with pytest.raises(HostError, match=r"not cuda:63|CUDA(.|\n)*--device cpu") as refused:
        open_session(file, backend=backend.name, device="cuda:63")
    assert refused.value.exit_code == 3


def test_a_missing_file_is_bad_input(opened, tmp_path):
    backend, suffix = opened
    with pytest.raises(InputError, match="does not exist"):
        open_session(tmp_path / f"nowhere{suffix}", backend=backend.name)


def test_a_changed_companion_is_refused_too(backend, artifact):
    companions = Artifact.read(artifact).manifest.companions
    if not companions:
        pytest.skip("this artifact is one file")
    for suffix in companions:
        content = bytearray(artifact.with_suffix(suffix).read_bytes())
        content[-1] ^= 1
        artifact.with_suffix(suffix).write_bytes(content)
        with pytest.raises(IntegrityError, match=f"{suffix} has the SHA-256"):
            open_session(artifact, backend=backend.name)
        artifact.with_suffix(suffix).unlink()
        with pytest.raises(IntegrityError, match=f"{suffix} does not exist"):
            open_session(artifact, backend=backend.name)


def test_a_changed_file_is_refused_before_the_runtime_opens_it(backend, artifact):
    content = bytearray(artifact.read_bytes())
    content[len(content) // 2] ^= 1
    artifact.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"SHA-256(.|\n)*copy all"):
        open_session(artifact, backend=backend.name)
    artifact.write_bytes(b"this would not open at all")
    with pytest.raises(IntegrityError, match="SHA-256"):
        open_session(artifact, backend=backend.name)


def test_a_file_without_its_manifest_is_refused(backend, artifact):
    manifest_path(artifact).unlink()
    with pytest.raises(IntegrityError, match=r"no manifest(.|\n)*copy"):
        open_session(artifact, backend=backend.name)


@pytest.mark.parametrize(
    "content",
    [b"", b"not json", b"\xff\xfe\x00", b"[]", b"null", b'"schema"', b"{}", b'{"schema": "1"}', b"[" * 100_000],
)
def test_a_manifest_that_is_none_is_refused(backend, artifact, content):
    manifest_path(artifact).write_bytes(content)
    with pytest.raises(IntegrityError) as refused:
        open_session(artifact, backend=backend.name)
    assert refused.value.hint


def test_a_manifest_of_a_newer_schema_is_refused(backend, artifact):
    change_manifest(artifact, schema=2)
    with pytest.raises(IntegrityError, match=r"schema 2(.|\n)*" + re.escape(upgrade_line())):
        open_session(artifact, backend=backend.name)


@pytest.mark.parametrize("field", ["schema", "spec", "batch", "attention_maps", "companions", "target"])
def test_a_manifest_with_garbage_in_a_field_never_ends_in_a_bug(backend, artifact, patches, field):
    def outcome(value: Any) -> str:
        change_manifest(artifact, **{field: value})
        try:
            with open_session(artifact, backend=backend.name) as session:
                session.run(patches)
                session.run_with_attention(patches)
                return "runs"
        except MedattnError as error:
            return error.hint

    for value in GARBAGE:
        assert outcome(value), value


def test_a_cut_file_with_the_right_hash_is_the_runtimes_error(backend, artifact):
    content = artifact.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 10):
        artifact.write_bytes(content[:length])
        change_manifest(artifact, sha256=sha256(artifact))
        with pytest.raises(BackendError) as refused:
            open_session(artifact, backend=backend.name)
        assert artifact.name in refused.value.found
        assert refused.value.hint


def change_manifest(artifact: Path, **change: Any) -> None:
    path = manifest_path(artifact)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def test_a_backend_that_nobody_knows_is_refused(tmp_path):
    with pytest.raises(UsageError, match="onnxruntime"):
        open_session(tmp_path / "a.onnx", backend="tensorrt-2")


@pytest.mark.parametrize("name", ["a.weights", "a", "a.onnx.json"])
def test_a_file_that_no_backend_opens_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match=r"ends in .*\.onnx"):
        open_session(tmp_path / name)


def test_a_backend_does_not_open_the_files_of_another(checkpoint):
    with pytest.raises(UsageError, match=r"no model file of onnxruntime(.|\n)*\.onnx"):
        open_session(checkpoint, backend="onnxruntime")


def test_a_session_of_one_method_conforms(patches):
    with FakeSession(SPEC, three_times, attention=lambda patches: np.abs(patches[:, :1])) as session:
        assert session.run(patches).shape == (3, 3, 32, 16)
        assert session.run_with_attention(patches)[1].shape == (3, 1, 32, 16)
        with pytest.raises(ShapeError):
            session.run(patches[:, :1])
    with pytest.raises(UsageError, match="no attention"):
        FakeSession(SPEC, three_times).run_with_attention(patches)


def test_an_answer_of_another_shape_is_the_runtimes_error(patches):
    four = replace(SPEC, labels=("a", "b", "c", "d"), outputs=4)
    with pytest.raises(BackendError, match=r"\(3, 4, 32, 16\)"):
        FakeSession(four, three_times).run(patches)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("out of memory\nby far", "on cpu: out of memory;"),
        ("The following failed.\nTraceback\nRuntimeError: sizes differ\n", "on cpu: sizes differ;"),
        ("", "on cpu: RuntimeError;"),
    ],
)
def test_the_reason_of_a_torch_failure_is_one_line(patches, text, said):
    def fail(_: Any) -> Any:
        raise RuntimeError(text)

    with pytest.raises(BackendError, match=said):
        TorchSession(SPEC, "cpu", fail).run(patches)


@pytest.fixture
def gpu_session(backend, file):
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    if backend.name == "openvino" or file.suffix == ".ort":
        pytest.skip("it runs on the CPU alone")
    if backend.name == "onnxruntime":
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            pytest.skip("this ONNX Runtime has no CUDAExecutionProvider")
    with open_session(file, backend=backend.name, device="cuda:0") as opened:
        yield opened


@pytest.mark.gpu
def test_on_a_gpu_it_answers_as_the_cpu_does(gpu_session, eager, patches):
    logits, (again, maps) = gpu_session.run(patches), gpu_session.run_with_attention(patches)
    expected, expected_maps = eager(patches)
    assert gpu_session.facts["device"] == "cuda:0"
    assert logits.dtype == maps.dtype == np.float32
    assert min(sqnr(expected, logits), sqnr(expected, again), sqnr(expected_maps, maps)) >= 90


@pytest.mark.gpu
def test_on_a_gpu_the_answer_belongs_to_the_caller(gpu_session, patches):
    first = gpu_session.run(patches)
    kept = first.copy()
    for factor in (2, 3, 4):
        gpu_session.run(patches * np.float32(factor))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.gpu
def test_on_a_gpu_patches_that_do_not_fit_are_refused(gpu_session, patches):
    with pytest.raises(ShapeError):
        gpu_session.run(patches[:, :1])
    assert gpu_session.run(patches).shape == (3, 3, 32, 16)
