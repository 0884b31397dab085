"""NAME.triton as a session: the windows are computed by a Triton server."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np

from medattn_edge.artifact import Artifact
from medattn_edge.backends.session import Backend, GraphSession, Options, Patches, Session, closed
from medattn_edge.backends.triton.remote_model import SUFFIX, RemoteModel
from medattn_edge.backends.triton.server import Server
from medattn_edge.errors import HostError

_NAME = "triton"
_THREADS = "the server has its own threads: those that were asked for here are not used"


class TritonSession(GraphSession):
    """`image` in, `logits` (and `attention`) out, over gRPC; how it is held to its model is in `Server.infer`.

    Attributes:
        facts: `server`, `model`, `version` and `model_sha256` say what computes; `device` and `threads` are those of
            this side, which computes nothing, and `server_devices` the kinds of the server's instances, as it tells.
    """

    def __init__(self, artifact: Artifact, options: Options) -> None:
        if options.device != "cpu":
            raise HostError(
                f"{artifact.path.name} runs on its server's device, not {options.device}",
                expected="no device of this host",
                hint="--device cpu; the server's configuration says which device it takes",
            )
        remote = RemoteModel.read(artifact.path)
        self._max_batch, self.in_flight = remote.max_batch, remote.in_flight
        self._server: Server | None = Server(remote, artifact.path.parent, _channels(artifact))
        try:
            config = self._server.check_model()
        except BaseException:
            self.close()
            raise
        kinds = sorted({type(one).Kind.Name(one.kind).removeprefix("KIND_") for one in config.instance_group})
        super().__init__(
            artifact.spec,
            batch=artifact.manifest.batch,
            attention_names=artifact.manifest.attention_maps,
            facts={
                "backend": _NAME,
                **artifact.origin,
                "device": options.device,
                "threads": options.threads,
                "server": remote.address,
                "model": remote.model,
                "version": remote.version,
                "model_sha256": remote.sha256,
                "server_devices": kinds,
                "encrypted": bool(remote.ca),
                "remarks": [_THREADS] if options.threads else [],
                "tritonclient": version("tritonclient"),
                "grpcio": version("grpcio"),
            },
        )

    def _answers(self, names: list[str], patches: Patches) -> list[Patches]:
        if self._server is None:
            raise closed()
        if not self._max_batch or len(patches) <= self._max_batch:
            return self._server.infer(names, patches)
        starts = range(0, len(patches), self._max_batch)
        parts = [self._server.infer(names, patches[start : start + self._max_batch]) for start in starts]
        return [np.concatenate(one) for one in zip(*parts, strict=True)]

    def close(self) -> None:
        """End the connection."""
        server, self._server = self._server, None
        if server is not None:
            server.close()


def _channels(artifact: Artifact) -> dict[str, int]:
    return {"logits": artifact.spec.outputs, "attention": len(artifact.manifest.attention_maps)}


def _open(path: Path, options: Options) -> Session:
    return TritonSession(Artifact.read(path), options)


BACKEND = Backend(name=_NAME, suffixes=(SUFFIX,), extra=_NAME, packages=("tritonclient",), open=_open)
