"""A model of a Triton server over gRPC: requests, each with its deadline, tries and errors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from medattn_edge.backends.session import Patches
from medattn_edge.backends.triton.remote_model import RemoteModel
from medattn_edge.backends.triton.shared_memory import Regions, SharedRegion, is_unknown_region
from medattn_edge.errors import BackendError, HostError, IntegrityError, MissingDependency

SHA256_PARAMETER: Final = "medattn_edge_sha256"  # of the configuration of the model on the server
_LAST_WORD_S: Final = 2.0  # to a server that is left
_FIRST_WAIT_S, _MAX_WAIT_S = 0.25, 2.0  # nine tries wait 11.75 s in total: a server restarts in 0.5 to 5 s
_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # images go to the address that was given and nowhere else
    ("grpc.enable_retries", 0),  # ours are counted
    # gRPC's own waits grow to two minutes: a server that is back would not be seen.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_HINTS: Final = {
    "DEADLINE_EXCEEDED": ("an answer in {timeout:g} s", "a longer timeout_s, or look at what keeps the server busy"),
    "INTERNAL": (
        "a model that computes",
        "restart the server: the process of a model that died stays dead while the server calls itself ready",
    ),
    "INVALID_ARGUMENT": ("input and outputs as the artifact has them", "serve the artifact that {model} was made from"),
    "SHARED": (
        "a server on this host that sees /dev/shm of it",
        "docker run --ipc=host for the server, or serve write without --shared-memory",
    ),
    "NOT_FOUND": ("version {version} of it", "serve it there, or name another server or model"),
}
_UNREACHABLE: Final = (
    "a server that answers",
    "is tritonserver running there, is the port that of its gRPC, does it want TLS?",
)
_FULL: Final = ("room in its queue", "more instances on the server, or fewer clients at once")


class Server:
    """A channel to one model of one server; close it.

    Args:
        remote: which model of which server.
        folder: that the files for TLS are relative to.
        channels: name of an output -> its channels.

    Raises:
        HostError: a file for TLS cannot be read.
        MissingDependency: tritonclient is here without grpcio.
    """

    def __init__(self, remote: RemoteModel, folder: Path, channels: Mapping[str, int]) -> None:
        try:
            import grpc
            from tritonclient.grpc import service_pb2, service_pb2_grpc
        except (ImportError, RuntimeError) as error:  # tritonclient without its own extra grpc
            raise MissingDependency.of_extra("grpcio", "triton") from error
        self._grpc, self._messages, self._remote = grpc, service_pb2, remote
        self._channels, self._regions = dict(channels), Regions()
        if remote.ca:
            ca, key, certificate = (_pem(folder, name) for name in (remote.ca, remote.key, remote.certificate))
            credentials = grpc.ssl_channel_credentials(ca, key, certificate)
            self._channel = grpc.secure_channel(remote.address, credentials, _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(remote.address, _OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def close(self) -> None:
        """Give the connection back; a request that is still waited for fails."""
        self._regions.close(self._stub, self._messages, _LAST_WORD_S)
        self._channel.close()

    def check_model(self) -> Any:
        """The model's configuration, once its hash has been checked.

        Raises:
            IntegrityError: it is another model, or one of nobody knows which file.
            BackendError: the server cannot be reached, or has no such model.
        """
        return self._tried(lambda: self._checked(self._asked_config()))

    def infer(self, names: Sequence[str], patches: Patches) -> list[Patches]:
        """The outputs of those names for patches float32 (N, C, *patch).

        The model's configuration is asked for beside every request, which costs no time: whatever was loaded under the
        same name and version since, also by a server that restarted, is refused before its answer is used. A model
        that is exchanged while a request is computed is refused with the next one.

        Raises:
            IntegrityError: it is another model now.
            BackendError: the server fails, or its answer is none.
        """
        if not self._remote.shared_memory:
            request = self._request(names, patches, None)
            return self._outputs(self._tried(lambda: self._once(request)), names, None)
        region = self._regions.take(self._sizes(names, patches), self._stub, self._messages, self._remote.timeout_s)
        try:
            region.write(patches)
            request = self._request(names, patches, region)
            found = self._outputs(self._tried(lambda: self._once_shared(request, region)), names, region)
        except BaseException:
            region.close()  # the server may write into it yet: no other request has it
            raise
        self._regions.give(region)
        return found

    def _once(self, request: Any) -> Any:
        config = self._asked_config()
        answer = self._stub.ModelInfer.future(request, timeout=self._remote.timeout_s)
        try:
            self._checked(config)
            return answer.result()
        finally:
            answer.cancel()  # of a model that is refused; one that has answered is not touched

    def _once_shared(self, request: Any, region: SharedRegion) -> Any:
        """As `_once`; a server that was started again is told of the region again."""
        if not region.registered:
            region.register(self._stub, self._messages, self._remote.timeout_s)
        try:
            return self._once(request)
        except self._grpc.RpcError as error:
            if not is_unknown_region(error):
                raise
        region.register(self._stub, self._messages, self._remote.timeout_s)
        return self._once(request)

    def _sizes(self, names: Sequence[str], patches: Patches) -> dict[str, int]:
        one = 4 * len(patches) * int(np.prod(patches.shape[2:], dtype=np.int64))
        return {"image": one * patches.shape[1], **{name: one * self._channels[name] for name in names}}

    def _request(self, names: Sequence[str], patches: Patches, region: SharedRegion | None) -> Any:
        request = self._messages.ModelInferRequest(model_name=self._remote.model, model_version=self._remote.version)
        image = request.inputs.add(name="image", datatype="FP32", shape=patches.shape)
        outputs = {name: request.outputs.add(name=name) for name in names}
        if region is None:
            request.raw_input_contents.append(patches.astype("<f4", copy=False).tobytes())
            return request
        region.refer(image.parameters, "image")
        for name, output in outputs.items():
            region.refer(output.parameters, name)
        return request

    def _asked_config(self) -> Any:
        request = self._messages.ModelConfigRequest(name=self._remote.model, version=self._remote.version)
        return self._stub.ModelConfig.future(request, timeout=self._remote.timeout_s)

    def _checked(self, asked: Any) -> Any:
        config, remote = asked.result().config, self._remote
        found = config.parameters[SHA256_PARAMETER].string_value if SHA256_PARAMETER in config.parameters else ""
        if found != remote.sha256:
            has = f"has the SHA-256 {found[:16]}..." if found else f"has no parameter {SHA256_PARAMETER}"
            raise IntegrityError(
                f"the model {remote.model} at {remote.address} {has}",
                expected=f"{remote.sha256[:16]}..., the artifact that this file was written for",
                hint="serve that artifact there, or write a file for the one that is served",
            )
        return config

    def _tried(self, once: Any) -> Any:
        wait_s = _FIRST_WAIT_S
        for number in range(1, self._remote.tries + 1):
            try:
                return once()
            except self._grpc.FutureCancelledError as error:
                raise BackendError("the session was closed during a run", hint="open the artifact again") from error
            except self._grpc.RpcError as error:
                if error.code().name != "UNAVAILABLE" or number == self._remote.tries:
                    raise self._translated(error, number) from error
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, _MAX_WAIT_S)
        raise AssertionError("at least one try")

    def _translated(self, error: Any, tries: int) -> BackendError:
        remote, status, details = self._remote, error.code().name, " ".join((error.details() or "").split())
        expected, hint = _HINTS.get(status, ("a valid run", "look at the server's log"))
        if "shared memory region" in details.lower():
            expected, hint = _HINTS["SHARED"]
        if status == "UNAVAILABLE":
            expected, hint = _FULL if "queue" in details else _UNREACHABLE
            details = f"{details} ({tries} {'try' if tries == 1 else 'tries'})"
        names = {"timeout": remote.timeout_s, "version": remote.version, "model": remote.model}
        return BackendError(
            f"the model {remote.model} at {remote.address}: {status}: {details}",
            expected=expected.format(**names),
            hint=hint.format(**names),
        )

    def _outputs(self, answer: Any, names: Sequence[str], region: SharedRegion | None) -> list[Patches]:
        remote, raw = self._remote, answer.raw_output_contents
        if (answer.model_name, answer.model_version) != (remote.model, remote.version):
            raise IntegrityError(
                f"version {answer.model_version} of {answer.model_name} answered",
                expected=f"version {remote.version} of {remote.model}",
                hint="write a file for the one that is served",
            )
        if region is not None:
            shapes = {one.name: tuple(one.shape) for one in answer.outputs}
            return [region.read(name, shapes.get(name, ())) for name in names]
        parts = {one.name: (one, data) for one, data in zip(answer.outputs, raw, strict=False)}
        return [self._array(name, *parts.get(name, (None, b""))) for name in names]

    def _array(self, name: str, output: Any, data: bytes) -> Patches:
        shape = () if output is None else tuple(output.shape)
        bytes_expected = 4 * int(np.prod(shape, dtype=np.int64))
        if output is None or output.datatype != "FP32" or len(data) != bytes_expected:
            what = "no output" if output is None else f"{output.datatype} {shape} in {len(data)} bytes as"
            raise BackendError(
                f"the model {self._remote.model} at {self._remote.address} answered with {what} {name!r}",
                expected="FP32 of 4 bytes a value",
                hint="numpy 2 in the environment of Triton's Python backend empties every answer: numpy 1.26.4 there",
            )
        # A view of the message cannot be written, and what a session returns belongs to the caller.
        return np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)


def _pem(folder: Path, name: str) -> bytes | None:
    try:
        return (folder / name).read_bytes() if name else None
    except OSError as error:
        raise HostError(
            f"{folder / name} cannot be read: {error.strerror}",
            expected="a PEM file for TLS",
            hint="copy it there: its path is relative to the folder of the .triton file",
        ) from error
