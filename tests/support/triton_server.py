"""A server that speaks Triton's protocol over gRPC and computes with a real session; its faults are told to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medattn_edge.artifact import Artifact
from medattn_edge.backends import open_session
from medattn_edge.backends.triton.remote_model import RemoteModel, write_remote_model
from medattn_edge.backends.triton.server import SHA256_PARAMETER

if TYPE_CHECKING:
    from typing_extensions import Self


class TritonServer:
    """One model on 127.0.0.1.

    Attributes:
        port: of gRPC.
        refusals: statuses and details of the next requests for inference, one each.
        sha256: what the configuration says.
        delay_s: before each answer.
        change: what is done to each answer before it is sent.
        requests: of inference, so far.
        most_at_once: requests of inference that were computed, or waited for their delay, at the same time.
    """

    def __init__(self, artifact: Path, *, port: int = 0, tls: tuple[bytes, bytes, bytes] | None = None) -> None:
        self.artifact, self.port, self._tls = Artifact.read(artifact), port, tls
        self.refusals: list[tuple[str, str]] = []
        self.sha256, self.delay_s, self.requests = self.artifact.content_sha256, 0.0, 0
        self.most_at_once, self._running, self._guard = 0, 0, threading.Lock()
        self.change: Callable[[Any], None] = lambda answer: None

    def __enter__(self) -> Self:
        import grpc
        from tritonclient.grpc import service_pb2_grpc

        self._session = open_session(self.artifact.path, threads=1)
        service = service_pb2_grpc.GRPCInferenceServiceServicer()
        service.ModelConfig, service.ModelInfer = self._config, self._infer
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, self._server)
        place = f"127.0.0.1:{self.port}"
        if self._tls is None:
            self.port = self._server.add_insecure_port(place)
        else:
            key, certificate, ca = self._tls
            asked = grpc.ssl_server_credentials([(key, certificate)], ca, require_client_auth=True)
            self.port = self._server.add_secure_port(place, asked)
        self._server.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._server.stop(None).wait()
        self._session.close()

    def file(self, path: Path, **settings: Any) -> Path:
        """NAME.triton for its model."""
        values = {"address": f"127.0.0.1:{self.port}", "model": "net", "sha256": self.artifact.content_sha256}
        return write_remote_model(self.artifact, path, RemoteModel(**{**values, **settings})).path

    def _config(self, request: Any, context: Any) -> Any:
        from tritonclient.grpc import service_pb2

        if (request.name, request.version) != ("net", "1"):
            self._refuse(context, "NOT_FOUND", f"Request for unknown model: '{request.name}' is not found")
        answer = service_pb2.ModelConfigResponse()
        answer.config.name = "net"
        answer.config.instance_group.add(kind=2)
        if self.sha256:
            answer.config.parameters[SHA256_PARAMETER].string_value = self.sha256
        return answer

    def _infer(self, request: Any, context: Any) -> Any:
        with self._guard:
            self.requests += 1
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        try:
            return self._answer(request, context)
        finally:
            with self._guard:
                self._running -= 1

    def _answer(self, request: Any, context: Any) -> Any:
        from tritonclient.grpc import service_pb2

        if self.refusals:
            self._refuse(context, *self.refusals.pop(0))
        time.sleep(self.delay_s)
        [image] = request.inputs
        patches = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(image.shape)
        names = [one.name for one in request.outputs]
        values = self._session.run_with_attention(patches) if "attention" in names else [self._session.run(patches)]
        answer = service_pb2.ModelInferResponse(model_name="net", model_version="1")
        for name, value in zip(names, values, strict=True):
            answer.outputs.add(name=name, datatype="FP32", shape=value.shape)
            answer.raw_output_contents.append(value.tobytes())
        self.change(answer)
        return answer

    @staticmethod
    def _refuse(context: Any, status: str, details: str) -> None:
        import grpc

        context.abort(grpc.StatusCode[status], details)
