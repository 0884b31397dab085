"""Triton's model repository for artifacts, and a NAME.triton of each for the hosts that ask it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from medattn_edge.artifact import Artifact, manifest_path
from medattn_edge.atomic import check_folder, sync
from medattn_edge.backends import missing_packages
from medattn_edge.backends.triton.remote_model import SUFFIX, RemoteModel, write_remote_model
from medattn_edge.backends.triton.server import SHA256_PARAMETER
from medattn_edge.backends.triton.session import BACKEND
from medattn_edge.errors import MedattnError, MissingDependency, OutputError, UsageError, quoted
from medattn_edge.serving.canary import canary_of
from medattn_edge.serving.python_model import ARTIFACT_PARAMETER, SHARED_PARAMETER, THREADS_PARAMETER

VERSION: Final = "1"
_PYTHON_MODEL: Final = """# Written by medattn-edge serve write.
from medattn_edge.serving.canary import canary_of
from medattn_edge.serving.python_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
"""
_NATIVE: Final[Mapping[str, str]] = MappingProxyType(
    {".onnx": "onnxruntime", ".xml": "openvino", ".engine": "tensorrt"}
)
_NATIVE_THREADS: Final[Mapping[str, str]] = MappingProxyType(
    {"onnxruntime": "intra_op_thread_count", "openvino": "INFERENCE_NUM_THREADS"}
)


@dataclass(frozen=True)
class NativeSettings:
    """How the server's own backends put requests together; nothing of it is for the Python backend.

    Attributes:
        max_batch: patches of one run, put together from several requests; 0 puts none together.
        delay_ms: how long a request may wait for others, in ms.
    """

    max_batch: int = 0
    delay_ms: float = 0.0


@dataclass(frozen=True)
class ServedModel:
    """One model of a repository.

    Attributes:
        name: on the server.
        backend: of Triton, that runs it.
        file: its NAME.triton, in the repository.
        no_canary: why NAME.triton keeps no answer for `serve check`; empty where it does.
    """

    name: str
    backend: str
    file: Path
    no_canary: str = ""


def write_repository(  # noqa: PLR0913 - one for each option of the command
    artifacts: Sequence[Path],
    output: Path,
    *,
    address: str = "127.0.0.1:8001",
    native: NativeSettings | None = None,
    instances: int = 1,
    threads: int = 0,
    ca: str = "",
    unencrypted: bool = False,
    shared_memory: bool = False,
) -> list[ServedModel]:
    """Write a repository, whole or not at all, and a NAME.triton of each model at its top, which Triton passes over.

    Each artifact is run once on this host, where it can be, so that `check_served` knows the answer.

    The Python backend checks an artifact's hash before it opens it. A native backend opens whatever file is there: the
    hash in its configuration is then that of the file that was copied.

    Args:
        artifacts: model files, each beside its manifest.
        output: the repository's folder; nothing may be there.
        address: HOST:PORT of the server's gRPC, as its clients reach it.
        native: for the server's own backend of the file's kind; None for Triton's Python backend, which opens the
            artifact as `open_session` does and needs this package in the server's Python.
        instances: of each model; several are not tied to cores.
        threads: of each instance on the CPU; 0 leaves it to the runtime.
        ca: a PEM file, as in `RemoteModel`.
        unencrypted: as in `RemoteModel`.
        shared_memory: likewise.

    Returns:
        The models, in the order of the artifacts.

    Raises:
        UsageError: for settings or files that cannot be served so, two of one name, and where something is at `output`.
        IntegrityError: for an artifact that is not what its manifest says.
        MissingDependency: without the extra triton.
        OutputError: when it cannot be written.
    """
    _check(artifacts, Path(output), native, instances, threads)
    read = [Artifact.read(Path(path)) for path in artifacts]
    served = []
    with _new_folder(Path(output)) as folder:
        for artifact in read:
            name = artifact.path.stem
            remote = RemoteModel(
                address,
                name,
                artifact.content_sha256,
                ca=ca,
                unencrypted=unencrypted,
                shared_memory=shared_memory,
            )
            canary, no_canary = _canary(artifact.path, threads)
            backend = "python" if native is None else _NATIVE[artifact.path.suffix.lower()]
            config = _config(artifact, backend, native or NativeSettings(), instances, threads)
            _write_model(folder / name, artifact, config, backend)
            write_remote_model(artifact, folder / f"{name}{SUFFIX}", _limited(remote, config, canary))
            served.append(ServedModel(name, backend, Path(output) / f"{name}{SUFFIX}", no_canary))
    return served


def _check(
    artifacts: Sequence[Path], output: Path, native: NativeSettings | None, instances: int, threads: int
) -> None:
    if missing := missing_packages(BACKEND):
        raise MissingDependency.of_extra(missing[0], BACKEND.extra)
    check_folder(output)
    if os.path.lexists(output):
        raise UsageError(f"{output} exists", expected="a new folder", hint=f"-o {quoted(output.name + '-2')}")
    if not artifacts or instances < 1 or threads < 0:
        raise UsageError(
            f"{len(artifacts)} artifacts in {instances} instances of {threads} threads",
            expected="an artifact or more, an instance or more, 0 threads or more",
            hint="medattn-edge serve write net.onnx -o repository --instances 1",
        )
    names = [Path(path).stem for path in artifacts]
    for path, name in zip(map(Path, artifacts), names, strict=True):
        if names.count(name) > 1:
            raise UsageError(
                f"two artifacts of the name {name}",
                expected="a name each",
                hint=f"copy one of them: {name}-2{path.suffix}",
            )
        if path.suffix.lower() == SUFFIX:
            raise UsageError(
                f"{path.name} is served already",
                expected="the artifact that it was written for",
                hint="medattn-edge serve write net.onnx -o repository",
            )
        if native is not None:
            _check_native(path, native, threads)


def _check_native(path: Path, native: NativeSettings, threads: int) -> None:
    backend = _NATIVE.get(path.suffix.lower())
    if backend is None:
        raise UsageError(
            f"{path.name} for a backend of the server's own",
            expected=f"a file that ends in {', '.join(_NATIVE)}",
            hint="--engine python",
        )
    if native.max_batch < 0 or not 0 <= native.delay_ms < float("inf") or (native.delay_ms and not native.max_batch):
        raise UsageError(
            f"a delay of {native.delay_ms:g} ms for batches of {native.max_batch}",
            expected="0 or more, and a delay only with a batch",
            hint="--max-batch 8 --delay-ms 1",
        )
    if threads and backend not in _NATIVE_THREADS:
        raise UsageError(f"{threads} threads for {backend}", expected="none: it runs on a GPU", hint="--threads 0")


def _config(artifact: Artifact, backend: str, native: NativeSettings, instances: int, threads: int) -> Any:
    """Triton's ModelConfig; the batch is a dimension of its own only where requests are put together."""
    from tritonclient.grpc import model_config_pb2 as messages

    manifest = artifact.manifest
    if native.max_batch and manifest.batch is not None:
        raise UsageError(
            f"{artifact.path.name} runs {manifest.batch} patches at once, and --max-batch is {native.max_batch}",
            expected="an artifact that runs any number",
            hint="--max-batch 0, or export with --batch dynamic",
        )
    config = messages.ModelConfig(name=artifact.path.stem, backend=backend, max_batch_size=native.max_batch)
    first = 1 if native.max_batch else 0
    for tensors, shapes in ((config.input, manifest.inputs), (config.output, manifest.outputs)):
        for name, shape in shapes.items():
            tensors.add(name=name, data_type=messages.TYPE_FP32, dims=shape[first:])
    kind = {"python": "KIND_MODEL", "tensorrt": "KIND_GPU"}.get(backend, "KIND_CPU")
    config.instance_group.add(count=instances, kind=messages.ModelInstanceGroup.Kind.Value(kind))
    if native.max_batch:
        config.dynamic_batching.max_queue_delay_microseconds = round(1000 * native.delay_ms)
    parameters = {SHA256_PARAMETER: artifact.content_sha256}
    if backend == "python":
        shared = "yes" if instances > 1 else "no"
        parameters |= {
            ARTIFACT_PARAMETER: artifact.path.name,
            THREADS_PARAMETER: str(threads),
            SHARED_PARAMETER: shared,
        }
    else:
        config.default_model_filename = artifact.path.name
        parameters |= {_NATIVE_THREADS[backend]: str(threads)} if threads else {}
    for name, value in parameters.items():
        config.parameters[name].string_value = value
    return config


def _limited(remote: RemoteModel, config: Any, canary: str) -> RemoteModel:
    return replace(remote, max_batch=config.max_batch_size, canary=canary)


def _canary(path: Path, threads: int) -> tuple[str, str]:
    """The known answer of an artifact, or empty and why this host has none: a server may have what this one lacks."""
    try:
        return canary_of(path, threads), ""
    except MedattnError as error:
        return "", error.message


def _write_model(folder: Path, artifact: Artifact, config: Any, backend: str) -> None:
    from google.protobuf import text_format

    place = folder / VERSION
    place.mkdir(parents=True)
    sources = [artifact.path, manifest_path(artifact.path)]
    for source in (*sources, *(artifact.path.with_suffix(suffix) for suffix in artifact.manifest.companions)):
        shutil.copyfile(source, place / source.name)
    Artifact.read(place / artifact.path.name)  # whoever changed a file while it was copied
    if backend == "python":
        (place / "model.py").write_text(_PYTHON_MODEL, encoding="utf-8")
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")
    for path in (*sorted(folder.rglob("*"), reverse=True), folder):
        sync(path)


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """A folder that becomes `output` when the block ends well, and goes when it does not."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".tmp", dir=output.parent))
        try:
            yield folder
            folder.chmod(0o755)
            sync(folder)
            folder.rename(output)  # onto a folder that appeared meanwhile it fails, unless that is empty
            sync(output.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            f"cannot write {output}: {error.strerror or error}",
            expected="free space and permission to write",
            hint=f"df -h {quoted(output.parent)}",
        ) from error
