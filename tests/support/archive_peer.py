"""An archive on loopback that really stores, and results to deliver to it."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pynetdicom import AE, _config, evt

from medattn_edge.io.dicom.parametric_map import write_parametric_map
from medattn_edge.io.dicom.rtstruct import write_rtstruct
from medattn_edge.io.dicom.secondary_capture import secondary_capture
from medattn_edge.io.dicom.seg import Algorithm, write_seg
from medattn_edge.io.dicom.sr import write_sr
from medattn_edge.io.dicom.volume import find_series
from medattn_edge.newer_python import UTC
from medattn_edge.scanner.store.records import Output
from medattn_edge.volume import Volume
from tests.support.dicom_phantoms import real_ct, write_series

SEG, LABELMAP, CAPTURE = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("66.4", "66.7", "7"))
RTSTRUCT, SR, MAPS = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("481.3", "88.33", "30"))
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
_config.LOG_HANDLER_LEVEL = "none"


class Archive:
    """stored: (SOPInstanceUID, SOP class, transfer syntax) of every object, in order. answer: gets each one's event."""

    def __init__(
        self,
        classes: Sequence[str] = (SEG, LABELMAP, CAPTURE),
        syntaxes: Sequence[str] = (EXPLICIT, IMPLICIT),
        answer: Callable[[Any], int] = lambda event: 0,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self.stored: list[tuple[str, str, str]] = []
        self.datasets: list[Any] = []
        self.associations, self.calling = 0, ""
        self.answer = answer
        ae = AE(ae_title="PACS")
        ae.require_called_aet = True
        ae.add_supported_context("1.2.840.10008.1.1")
        for one in classes:
            ae.add_supported_context(one, list(syntaxes))
        handlers: list[Any] = [(evt.EVT_C_STORE, self._on_store), (evt.EVT_REQUESTED, self._on_requested)]
        server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers, ssl_context=tls)
        assert server is not None  # what does not block has one
        assert server.socket is not None
        self.server, self.port = server, int(server.socket.getsockname()[1])

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *ended: object) -> None:
        self.server.shutdown()

    @property
    def uids(self) -> list[str]:
        return [uid for uid, _, _ in self.stored]

    def _on_requested(self, event: Any) -> None:
        self.associations += 1
        self.calling = str(event.assoc.requestor.primitive.calling_ae_title).strip()

    def _on_store(self, event: Any) -> int:
        status = self.answer(event)
        if status in (0, 0xB000, 0xB006, 0xB007):
            request = event.request
            self.stored.append(
                (request.AffectedSOPInstanceUID, request.AffectedSOPClassUID, event.context.transfer_syntax)
            )
            self.datasets.append(event.dataset)
        return status


def make_results(folder: Path, *, planning: bool = False) -> dict[str, Path]:
    """seg.dcm, labels.dcm (a label map) and key_1.dcm (RGB) of a small piece of a real CT.

    planning: instead of the last two, rtstruct.dcm, sr.dcm and probabilities.dcm.
    """
    scan = real_ct(3, 16, 16)
    write_series(folder / "series", scan.voxels, scan.affine)
    [source] = find_series(folder / "series")
    labels = Volume((scan.voxels > np.median(scan.voxels)).astype(np.uint8), scan.affine)
    algorithm = Algorithm("lungs-attention-unet-2d", "1.0", "5" * 64)
    names = ("background", "lung")
    seg = write_seg(folder / "seg.dcm", labels, names, source, algorithm)
    if planning:
        write_rtstruct(folder / "rtstruct.dcm", labels, names, source, algorithm)
        write_sr(folder / "sr.dcm", labels, names, source, algorithm, seg)
        of_lung = labels.voxels.astype(np.float32)
        maps = labels.with_voxels(np.stack([1 - of_lung, of_lung]))
        write_parametric_map(folder / "probabilities.dcm", maps, names, source, algorithm)
        return {name: folder / name for name in ("seg.dcm", "rtstruct.dcm", "sr.dcm", "probabilities.dcm")}
    write_seg(folder / "labels.dcm", labels, names, source, algorithm, kind="labelmap")
    secondary_capture(folder, scan, labels, names, source, algorithm, 1)
    return {name: folder / name for name in ("seg.dcm", "labels.dcm", "key_1.dcm")}


def segment(node: Any, results: dict[str, Path], series: int, *destinations: str, names: Sequence[str] = ()) -> str:
    """Have the results delivered as those of a new series; its key. names: of the files; none: all."""
    job = node.job(series)
    folder = node.custody.working_folder(job)
    outputs = []
    for name in names or results:
        (folder / name).write_bytes(results[name].read_bytes())
        stem = Path(name).stem
        kind = stem if stem in ("rtstruct", "sr", "probabilities") else "sc" if stem == "key_1" else "seg"
        outputs.append(Output(kind, name, str(pydicom.dcmread(results[name]).SOPInstanceUID)))
    (folder / "overlay.png").write_bytes(b"picture")
    assert node.custody.record_result(job, folder, [*outputs, Output("overlay", "overlay.png")], destinations)
    return str(job.key)


def make_certificates(folder: Path) -> SimpleNamespace:
    """PEM files: ca, archive and its key, client and its key; 127.0.0.1 is in both certificates."""
    now = datetime.datetime.now(UTC)

    def sign(name: str, issuer: Any, signer: Any, authority: bool) -> tuple[Any, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(authority, None), True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .sign(signer or key, hashes.SHA256())
        )
        return made, key

    found = {}
    authority, authority_key = sign("authority", None, None, True)
    for name in ("ca", "archive", "client"):
        made, key = (authority, authority_key) if name == "ca" else sign(name, authority.subject, authority_key, False)
        found[name] = folder / f"{name}.pem"
        found[name].write_bytes(made.public_bytes(serialization.Encoding.PEM))
        found[f"{name}_key"] = folder / f"{name}.key"
        found[f"{name}_key"].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        found[f"{name}_key"].chmod(0o600)  # or a node refuses it
    return SimpleNamespace(**found)
