"""What can be set of a node: one dataclass for each section of its TOML file, every default here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final, Literal

from medattn_edge.backends import AUTO, device_of
from medattn_edge.scanner.config.toml import NO_KEY
from medattn_edge.scanner.store.records import Conflict, Policy


@dataclass(frozen=True)
class Receive:
    """[receive]: C-STORE. Without this section nothing is received over the network.

    Attributes:
        calling_ae: titles that may send, at least one; "*" is everybody.
        ae_title: of the node; callers must name it.
        host: 127.0.0.1 until you say otherwise.
        port: 0 takes any free one.
        plain: whether the listener without TLS is open; none: only where there is no [tls].
        addresses: networks (CIDR) that may connect.
        sop_classes: that are taken, by keyword or UID.
        max_associations: open at once.
        max_per_address: of those, of one address: nobody takes all places.
        max_object_mb: of one object, in 1e6 bytes.
        conflict: an object that comes again with other contents opens a `new_version`, or is answered with a failure.
    """

    calling_ae: tuple[str, ...]
    ae_title: str = "MEDATTN"
    host: str = "127.0.0.1"
    port: int = 11112
    plain: bool | None = None
    addresses: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    sop_classes: tuple[str, ...] = (
        "CTImageStorage",
        "EnhancedCTImageStorage",
        "LegacyConvertedEnhancedCTImageStorage",
        "MRImageStorage",
        "EnhancedMRImageStorage",
        "LegacyConvertedEnhancedMRImageStorage",
        "PositronEmissionTomographyImageStorage",
        "EnhancedPETImageStorage",
        "LegacyConvertedEnhancedPETImageStorage",
    )
    max_associations: int = 8
    max_per_address: int = 6
    max_object_mb: int = 2048
    conflict: Conflict = "new_version"


@dataclass(frozen=True)
class Tls:
    """[tls]: a listener with TLS 1.2 or newer, instead of the plain one unless both are asked for.

    It has the titles, networks and classes of [receive].

    Attributes:
        certificate: PEM file of the node.
        key: PEM file of the node, without a password.
        clients_ca: PEM file of the authorities that sign callers' certificates.
        mutual: whether a caller needs such a certificate.
        port: 0 takes any free one.
    """

    certificate: Path
    key: Path
    clients_ca: Path | None = None
    mutual: bool = True
    port: int = 2762


@dataclass(frozen=True)
class Watch:
    """[watch]: a folder whose DICOM files are taken like received ones.

    Attributes:
        folder: that, with all that are in it.
        poll_s: between looks.
        settle_s: a file that has not changed for so long is whole.
        after: `keep` or `remove` it.
        conflict: as of [receive]; a file that is refused stays.
    """

    folder: Path
    poll_s: float = 2.0
    settle_s: float = 2.0
    after: Literal["keep", "remove"] = "keep"
    conflict: Conflict = "new_version"


@dataclass(frozen=True)
class Channel:
    """One of `channels` of [[model]]: which series of a study it is. A series is one whose patterns all fit.

    Attributes:
        name: of the channel, as the network has it; empty: the network's own at that place, or its number.
        description: a pattern with * and ?, in any case, for the description of the series.
        modality: CT, MR, PT; empty: any.
        body_part: a pattern.
        volume: of a series of several volumes, the one to take, from 1; 0 refuses such a series.
    """

    name: str = ""
    description: str = "*"
    modality: str = ""
    body_part: str = "*"
    volume: int = 0


@dataclass(frozen=True)
class Model:
    """[[model]]: an artifact, and the series it is for. The first model whose four patterns fit takes a series.

    Attributes:
        name: for logs and the page.
        artifact: the file that segments; or a release, or RELEASE#ARTIFACT.
        sha256: that it must have; empty: the one that it has when the node reads its configuration.
        release_sha256: that the release.json of a release must have; empty: the one that it has then.
        device: auto, cpu or cuda:N; each has a worker process of its own.
        modality: CT, MR, PT; empty: any.
        body_part: a pattern with * and ?, in any case.
        description: a pattern for the description of the series.
        calling_ae: a pattern for the title of the sender.
        kind: of the segmentation.
        key_slices: how many pictures go with it.
        rtstruct: whether its contours go with it, as an RT structure set.
        sr: whether its volumes go with it, as a measurement report; of a binary segmentation only.
        probabilities: whether a map of each label goes with it, as a Parametric Map: 4 bytes a voxel and label.
        overlap: of the windows, as a fraction of a patch; None: the artifact's own.
        skip_air: leave out windows outside the body.
        any_modality: segment series of another modality than the artifact was trained on, instead of refusing them.
        threads: 0: one for each core that the node may use.
        destinations: names; none: all there are.
        volume: of a series of several volumes (times, echoes), the one to take, from 1; 0 refuses such a series.
        channels: of a network of several channels, which series of a study each is, in the network's order.
        resample_to_first: a channel on another grid is resampled to the first's instead of refused.
        file_name: no key: the name of the file that segments, of a release the one in it; "" before it is checked.
    """

    name: str
    artifact: Path
    sha256: str = ""
    release_sha256: str = ""
    device: str = AUTO
    modality: str = ""
    body_part: str = "*"
    description: str = "*"
    calling_ae: str = "*"
    kind: Literal["binary", "labelmap"] = "binary"
    key_slices: int = 0
    rtstruct: bool = False
    sr: bool = False
    probabilities: bool = False
    overlap: float | None = None
    skip_air: bool = False
    any_modality: bool = False
    threads: int = 0
    destinations: tuple[str, ...] = ()
    volume: int = 0
    channels: tuple[Channel, ...] = ()
    resample_to_first: bool = False
    file_name: str = field(default="", compare=False, metadata=NO_KEY)  # it follows from the artifact

    @property
    def computes_on(self) -> str:
        """The device as the file names it, or what `auto` stands for: see `backends.device_of`."""
        return device_of(self.file_name or self.artifact, self.device)


@dataclass(frozen=True)
class Releases:
    """[releases]: whose signatures count. Without this section nobody's are asked for.

    Attributes:
        trusted_keys: file of public keys, each below its name; read again with the configuration.
        require_signed: every model must be a release that one of them signed; false: what is signed must be signed by
            one of them, and an artifact by itself or a release without a signature is taken.
    """

    trusted_keys: Path
    require_signed: bool = True


@dataclass(frozen=True)
class Destination:
    """[[destination]]: a folder, a host with port and ae_title (C-STORE), or a DICOMweb address (STOW-RS).

    Attributes:
        name: for logs, the page and `destinations` of a model.
        folder: where results are written.
        host: of an archive.
        port: of the archive.
        ae_title: of the archive.
        calling_ae_title: what the node calls itself; empty: the title of [receive].
        tls: with TLS 1.2 or newer.
        ca: PEM file of the authorities that sign the archive's certificate; none: those of the system.
        certificate: PEM file that the node shows.
        key: PEM file of that certificate's key.
        timeout_s: to connect, and for each answer.
        dicomweb: http(s)://HOST:PORT/PATH of an archive's DICOMweb service; https is TLS 1.2 or newer.
        credentials: file with one line for it: bearer TOKEN, or basic USER:PASSWORD; read at each delivery.
    """

    name: str
    folder: Path | None = None
    host: str = ""
    port: int = 0
    ae_title: str = ""
    calling_ae_title: str = ""
    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    timeout_s: float = 30.0
    dicomweb: str = ""
    credentials: Path | None = None


@dataclass(frozen=True)
class Limits(Policy):
    """[limits]: beside those of `Policy`, of the disk, the workers and what is kept.

    Attributes:
        max_used_fraction: of the disk; the rest stays free, or
        min_free_gb: in 1e9 bytes, whichever is smaller: a series of `max_bytes` and its result.
        quota_gb: of the root folder; none: the whole disk.
        job_timeout_s: a series that takes longer hangs.
        start_timeout_s: of a worker.
        memory_mb: resident memory of a worker, in 1e6 bytes; 0: no limit.
        drain_s: to finish after SIGTERM.
        keep_days: of delivered series.
        quarantine_keep_days: of single objects in quarantine.
    """

    max_used_fraction: float = 0.75
    min_free_gb: float = 10.0
    quota_gb: float | None = None
    job_timeout_s: float = 900.0
    start_timeout_s: float = 300.0
    memory_mb: int = 0
    drain_s: float = 60.0
    keep_days: float = 14.0
    quarantine_keep_days: float = 30.0

    @property
    def policy(self) -> Policy:
        """The part that the store follows."""
        return Policy(**{field.name: getattr(self, field.name) for field in fields(Policy)})


@dataclass(frozen=True)
class StorageCommitment:
    """[storage_commitment]: promise senders, who ask for it, that the node keeps what they have sent.

    Attributes:
        enabled: whether the node gives such promises.
        keep_days: that a promised object stays at least, delivered or not, however full the disk is.
        max_waiting: requests whose answers wait, of all peers; more are refused.
        max_instances: of one request.
    """

    enabled: bool = False
    keep_days: float = 30.0
    max_waiting: int = 1000
    max_instances: int = 10_000


@dataclass(frozen=True)
class CommitmentPeer:
    """[[commitment_peer]]: who may ask for storage commitment, and where the answer goes.

    Attributes:
        ae_title: of the peer, as it calls and is called.
        host: of the peer.
        port: of the peer.
        tls: with TLS 1.2 or newer.
        ca: PEM file of the authorities that sign the peer's certificate; none: those of the system.
        certificate: PEM file that the node shows.
        key: PEM file of that certificate's key.
        timeout_s: to connect, and for each answer.
    """

    ae_title: str
    host: str
    port: int
    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    timeout_s: float = 30.0

    @property
    def address(self) -> Destination:
        """The same as somebody to connect to."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return Destination(name=self.ae_title, **named)


@dataclass(frozen=True)
class Status:
    """[status]: the page, its JSON and the metrics.

    Attributes:
        enabled: false for none.
        host: only of this machine.
        port: 0 takes any free one. Orthanc's page has 8042, dcm4chee's 8080; no /etc/services names 8742.
        thumbnails: pictures of the last results.
    """

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = 8742
    thumbnails: bool = True


# Keys that had other names once: refused with the new one, since a limit that is not read is no limit.
RENAMED_KEYS: Final[Mapping[type, Mapping[str, str]]] = {
    Limits: {
        "most_used": "max_used_fraction",
        "least_free_gb": "min_free_gb",
        "first_retry_s": "retry_initial_s",
        "most_retry_s": "retry_max_s",
        "longest_wait_s": "max_wait_s",
        "objects_days": "quarantine_keep_days",
    }
}
