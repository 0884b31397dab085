"""RemoteModel: which model of which server a NAME.triton stands for; NAME.triton.json beside it is its manifest."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from medattn_edge.artifact import Artifact, sha256, writing
from medattn_edge.errors import BackendError, UsageError, quoted

SUFFIX: Final = ".triton"
SCHEMA: Final = 1
_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_MAX_PORT: Final = 65535
_MAX_TRIES: Final = 100
_MAX_TIMEOUT_S: Final = 3600.0
_MAX_IN_FLIGHT: Final = 8


@dataclass(frozen=True)
class RemoteModel:
    """Which model of which server, and how long to wait for it.

    Attributes:
        address: HOST:PORT of its gRPC; of IPv6 [HOST]:PORT.
        model: its name there.
        sha256: of what it must have been made from, `Artifact.content_sha256`; a server with another is refused.
        version: the one that is asked for: no other answers, not even a later one.
        ca: a PEM file with the authority of the server's certificate, which turns TLS on. This and the next two are
            relative to the folder of NAME.triton.
        certificate: the client's, where the server asks for one.
        key: the private key of `certificate`.
        unencrypted: whether images may go to another host without TLS.
        timeout_s: of one request, in s.
        tries: of one request, while the server cannot be reached or its queue is full.
        max_batch: patches of one request, where the server puts requests together; 0 for any number.
        in_flight: requests of one scan that are waited for at once: the second one's data travel while the first is
            computed.
        shared_memory: whether patches and answers go through the memory of this host, which the server is on too.
        canary: what the artifact answers to a patch that everybody knows, for `serve check`; empty where the host that
            wrote it could not compute it.

    Raises:
        UsageError: for a value that cannot be.
    """

    address: str
    model: str
    sha256: str
    version: str = "1"
    ca: str = ""
    certificate: str = ""
    key: str = ""
    unencrypted: bool = False
    timeout_s: float = 60.0
    tries: int = 9
    max_batch: int = 0
    in_flight: int = 2
    shared_memory: bool = False
    canary: str = ""

    def __post_init__(self) -> None:
        match = _ADDRESS.fullmatch(self.address)
        if match is None or not 0 < int(match[3]) <= _MAX_PORT:
            raise UsageError(f"the address {self.address!r}", expected="HOST:PORT of gRPC", hint="127.0.0.1:8001")
        wrong = {
            "model": (_NAME.fullmatch(self.model), "letters, digits, . _ and -"),
            "version": (_VERSION.fullmatch(self.version), "a whole number from 1 on"),
            "sha256": (_SHA256.fullmatch(self.sha256), "64 hexadecimal digits"),
            "timeout_s": (0 < self.timeout_s <= _MAX_TIMEOUT_S, f"seconds up to {_MAX_TIMEOUT_S:g}"),
            "tries": (0 < self.tries <= _MAX_TRIES, f"1 to {_MAX_TRIES}"),
            "max_batch": (self.max_batch >= 0, "0 or more"),
            "in_flight": (0 < self.in_flight <= _MAX_IN_FLIGHT, f"1 to {_MAX_IN_FLIGHT}"),
        }
        for name, (fits, expected) in wrong.items():
            if not fits:
                raise UsageError(f"the {name} {getattr(self, name)!r}", expected=expected, hint=f"another {name}")
        if bool(self.certificate) != bool(self.key) or (self.certificate and not self.ca):
            raise UsageError(
                "only a part of TLS",
                expected="ca, or ca with both certificate and key",
                hint="name all three PEM files, or ca alone where the server asks for no certificate",
            )
        if not (self.ca or self.unencrypted or _is_loopback(match[1] or match[2])):
            raise UsageError(
                f"images would go to {self.address} unencrypted",
                expected="TLS, or a server on this host",
                hint="serve write --ca FILE.pem of its certificate; --unencrypted where the network is trusted",
            )

        if self.shared_memory and not _is_loopback(match[1] or match[2]):
            raise UsageError(
                f"shared memory with the server {self.address}",
                expected="a server on this host, 127.0.0.1",
                hint="leave --shared-memory out",
            )

    @classmethod
    def from_json(cls, values: Any) -> RemoteModel:
        """From `to_json`; UsageError for fields that are unknown, missing or of another kind."""
        if not isinstance(values, Mapping) or values.get("schema") != SCHEMA:
            raise UsageError("no schema number that is known", expected=f"schema {SCHEMA}", hint="write it again")
        rest = {key: value for key, value in values.items() if key != "schema"}
        kinds: dict[str, tuple[type, ...]] = dict.fromkeys(("unencrypted", "shared_memory"), (bool,))
        kinds |= {**dict.fromkeys(("tries", "max_batch", "in_flight"), (int,)), "timeout_s": (int, float)}
        known = {one.name for one in fields(cls)}
        wrong = [key for key, value in rest.items() if key not in known or type(value) not in kinds.get(key, (str,))]
        wrong += sorted({"address", "model", "sha256"} - rest.keys())
        if wrong:
            raise UsageError(
                f"the field {wrong[0]!r} is {rest.get(wrong[0], 'missing')!r}",
                expected=f"the fields of schema {SCHEMA}: {', '.join(sorted(known))}",
                hint="write it again",
            )
        return cls(**rest)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values with the schema's version; `from_json` is its inverse."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def read(cls, path: Path) -> RemoteModel:
        """From a NAME.triton whose hash has been checked.

        Raises:
            BackendError: when it cannot be read.
        """
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, RecursionError, OSError, UsageError) as error:
            found = error.message if isinstance(error, UsageError) else str(error)
            raise BackendError(
                f"{path.name} names no model of a server: {found}",
                expected=f"JSON of schema {SCHEMA}: address, model, sha256, ...",
                hint="write it again: medattn-edge serve write ARTIFACT -o A_NEW_REPOSITORY",
            ) from error


def write_remote_model(artifact: Artifact, path: Path, remote: RemoteModel) -> Artifact:
    """Write NAME.triton and its manifest, whole or not at all; the server is not asked.

    Args:
        artifact: that the server computes with.
        path: of the new file; its name ends in .triton.
        remote: where it is served; its sha256 is the artifact's.

    Returns:
        It as an artifact, with the lineage of the other.

    Raises:
        UsageError: for another suffix, or a sha256 that is not the artifact's.
        OutputError: when a file cannot be written.
    """
    if path.suffix.lower() != SUFFIX:
        raise UsageError(
            f"{path.name} as a model of a server",
            expected=f"a name that ends in {SUFFIX}",
            hint=f"-o {quoted(path.with_suffix(SUFFIX))}",
        )
    if remote.sha256 != artifact.content_sha256:
        raise UsageError(
            f"{artifact.path.name} has the SHA-256 {artifact.content_sha256[:16]}..., not {remote.sha256[:16]}...",
            expected="the artifact that is served",
            hint="sha256=artifact.content_sha256",
        )
    with writing(path) as (model, sidecar):
        model.write_text(json.dumps(remote.to_json(), indent=2) + "\n", encoding="utf-8")
        manifest = artifact.manifest.child(sha256=sha256(model), target={"runtime": "triton"})
        manifest.write(sidecar)
    return Artifact(path, manifest)


def computing_sha256(path: Path) -> str:
    """The SHA-256 of the model file that computes: of a NAME.triton that of the served one, else of the file itself.

    Raises InputError and IntegrityError as `Artifact.read` does.
    """
    return Artifact.read(path).manifest.parent_sha256 if path.suffix.lower() == SUFFIX else sha256(path)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
