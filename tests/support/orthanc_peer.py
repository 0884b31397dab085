"""Orthanc, with a storage and ports of its own."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.support.dicom_peers import AE_TITLE, free_port


class Orthanc:
    """An Orthanc of our own: free ports, a temporary storage, and REST. peers: name -> (title, port)."""

    def __init__(self, folder: Path, tls: dict[str, Path] | None = None) -> None:
        self.folder, self.http_port, self.port, self.tls = folder, free_port(), free_port(), tls
        folder.mkdir(parents=True)
        settings: dict[str, Any] = {
            "Name": "test",
            "StorageDirectory": str(folder),
            "IndexDirectory": str(folder),
            "HttpPort": self.http_port,
            "DicomPort": self.port,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowEcho": True,
            "StableAge": 1,
            "Plugins": [],
        }
        if tls is not None:
            settings |= {
                "DicomTlsEnabled": True,
                "DicomTlsCertificate": str(tls["certificate"]),
                "DicomTlsPrivateKey": str(tls["key"]),
                "DicomTlsTrustedCertificates": str(tls["ca"]),
                "DicomTlsRemoteCertificateRequired": True,
            }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Orthanc:
        with (self.folder / "orthanc.log").open("wb") as log:
            words = ["Orthanc", str(self.folder / "orthanc.json")]
            self._process = subprocess.Popen(words, stdout=log, stderr=log)
        limit = time.monotonic() + 30
        while True:
            try:
                self.rest("/system")
                return self
            except OSError:
                said = (self.folder / "orthanc.log").read_text()[-2000:]
                assert self._process.poll() is None, said
                assert time.monotonic() < limit, said
                time.sleep(0.1)

    def __exit__(self, *ended: object) -> None:
        if self._process is not None:
            self._process.kill()  # its storage is temporary, and a polite end takes seconds
            self._process.wait(30)

    @property
    def destination(self) -> dict[str, Any]:
        """Its section of a configuration, without TLS."""
        return {"name": "orthanc", "host": "127.0.0.1", "port": self.port, "ae_title": "ORTHANC"}

    def rest(self, path: str, data: Any = None, method: str = "") -> Any:
        """JSON from the REST interface; `data` is posted, as JSON unless it is bytes."""
        body = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", body)
        if method:
            asked.method = method
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def raw(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=60) as answer:
            return bytes(answer.read())

    def upload(self, files: Iterable[Path]) -> list[str]:
        """Its own names of the instances."""
        return [self.rest("/instances", path.read_bytes())["ID"] for path in files]

    def knows(self, port: int) -> None:
        """Tell it of a node."""
        node: dict[str, Any] = {"AET": AE_TITLE, "Host": "127.0.0.1", "Port": port}
        self.rest("/modalities/node", {**node, "UseDicomTls": self.tls is not None}, "PUT")

    def send(self, instances: Sequence[str]) -> None:
        """C-STORE by Orthanc to the node; HTTPError when it could not."""
        self.rest("/modalities/node/store", {"Resources": list(instances), "Synchronous": True})

    def find(self, level: str, **query: str) -> list[dict[str, Any]]:
        """What it finds, with its tags."""
        return list(self.rest("/tools/find", {"Level": level, "Query": query, "Expand": True}))

    def commit(self, instances: Sequence[str]) -> Any:
        """Ask the node for storage commitment; the ID and the path of the report."""
        return self.rest("/modalities/node/storage-commitment", {"Resources": list(instances)})
