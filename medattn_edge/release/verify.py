"""Whether a release is what its manifest says, who signed that, and its files, opened only once both are known.

The order is the point: names, then the signature over the bytes of the manifest, then the manifest, then the hash of
every file. Nothing of a model, of its manifest or of the bill of materials is interpreted before. What is opened is a
private copy made of the very bytes that were hashed: a file that is swapped afterwards changes nothing.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from medattn_edge.artifact import Artifact
from medattn_edge.errors import InputError, IntegrityError, OutputError, UsageError, quoted
from medattn_edge.release.artifacts import describe, files_of
from medattn_edge.release.container import Container, is_release, opened_container
from medattn_edge.release.keys import SIGNATURE_BYTES, TrustedKey, verified_by
from medattn_edge.release.manifest import MANIFEST, MAX_MANIFEST_BYTES, SIGNATURE, ReleasedFile, ReleaseManifest

SEPARATOR: Final = "#"
_AGAIN: Final = "do not use it: copy the release again from where it was made"


@dataclass(frozen=True)
class VerifiedRelease:
    """A release all of whose bytes are those that its manifest names.

    Attributes:
        path: of the folder or the .zip.
        manifest: as read.
        manifest_sha256: of its bytes: what stands for the whole release.
        signed: whether there is a signature; by whom is known only with keys to try.
        signer: the trusted key that made the signature; None when no keys were given.
    """

    path: Path
    manifest: ReleaseManifest
    manifest_sha256: str
    signed: bool
    signer: TrustedKey | None

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.manifest.name} {self.manifest.version}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: who says so, and the manifest."""
        signer = None
        if self.signer is not None:
            signer = {"signer": self.signer.signer, "fingerprint": self.signer.fingerprint}
        return {
            "release": str(self.path),
            "manifest_sha256": self.manifest_sha256,
            "signed": self.signed,
            "signed_by": signer,
            "manifest": self.manifest.to_json(),
        }


@dataclass(frozen=True)
class OpenedArtifact:
    """An artifact of a release as a file that nobody else can change.

    Attributes:
        file: the private copy of the model file, beside its manifest and companions.
        release: what it is from.
    """

    file: Path
    release: VerifiedRelease


def split_address(path: Path | str) -> tuple[Path, str]:
    """DIR#NAME or FILE.zip#NAME as the release and the name of one of its artifacts, "" for the default.

    A path that is there as it is written is taken as such.
    """
    path = Path(path)
    if path.exists() or SEPARATOR not in path.name:
        return path, ""
    head, _, name = path.name.rpartition(SEPARATOR)
    return path.with_name(head) if head else path, name if head else ""


def is_release_address(path: Path | str) -> bool:
    """Whether a path names a release or an artifact of one."""
    return is_release(split_address(path)[0])


def verify(path: Path, trusted: Sequence[TrustedKey] = ()) -> VerifiedRelease:
    """Check every byte of a release, and, with keys, its signature.

    Args:
        path: of the folder or the .zip.
        trusted: keys, one of which must have signed it; none: the signature is not looked at.

    Raises:
        InputError: when there is no release.
        IntegrityError: for anything that is not as it was written, and for a signature by none of the keys.
    """
    with opened_container(path) as container:
        return _verified(container, trusted, None, ())


@contextmanager
def opened_artifact(
    path: Path | str, trusted: Sequence[TrustedKey] = (), *, manifest_sha256: str = ""
) -> Iterator[OpenedArtifact]:
    """One artifact of a release as a file, for as long as the block lasts.

    Args:
        path: of the release, or RELEASE#NAME for another artifact than its default.
        trusted: as for `verify`.
        manifest_sha256: that the release must have, "" for any.

    Raises:
        InputError, IntegrityError: as `verify` does, and for another manifest.
        UsageError: for an artifact that it does not hold.
        OutputError: when there is no room for the copy.
    """
    place, name = split_address(path)
    with ExitStack() as stack:
        container = stack.enter_context(opened_container(place))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="medattn-edge-release-")))  # mode 0700
        release = _verified(container, trusted, folder, (name,), manifest_sha256)
        yield OpenedArtifact(folder / (name or release.manifest.default), release)


def _verified(
    container: Container, trusted: Sequence[TrustedKey], folder: Path | None, wanted: tuple[str, ...], pinned: str = ""
) -> VerifiedRelease:
    data, signature = _read_manifest(container)
    signer = None
    if trusted:
        if signature is None:
            raise IntegrityError(
                f"the release {container.path.name} is not signed",
                expected=f"a signature by {', '.join(key.signer for key in trusted)}",
                hint=f"medattn-edge release sign {quoted(container.path)} --key KEY, by whoever made it",
            )
        signer = verified_by(data, signature, tuple(trusted))
    digest = hashlib.sha256(data).hexdigest()
    if pinned and digest != pinned:
        raise IntegrityError(
            f"the release {container.path.name} has the manifest {digest[:16]}... now",
            expected=f"{pinned[:16]}..., as when it was read first",
            hint="put the release back, or have the node read its configuration again: kill -HUP PID",
        )
    manifest = ReleaseManifest.from_bytes(data)
    _check_names(container, manifest)
    _check_files(container, manifest, folder, wanted)
    return VerifiedRelease(container.path, manifest, digest, signature is not None, signer)


def _read_manifest(container: Container) -> tuple[bytes, bytes | None]:
    if MANIFEST not in container.names:
        raise InputError(
            f"{container.path} is no release: it has no {MANIFEST}",
            expected="a folder or a .zip that `release write` made",
            hint="medattn-edge release write ARTIFACT -o DIR",
        )
    data = b"".join(container.chunks(MANIFEST, MAX_MANIFEST_BYTES))
    if SIGNATURE not in container.names:
        return data, None
    signature = b"".join(container.chunks(SIGNATURE, SIGNATURE_BYTES))
    if len(signature) != SIGNATURE_BYTES:
        raise IntegrityError(
            f"{SIGNATURE} has {len(signature)} bytes", expected=f"{SIGNATURE_BYTES}, of Ed25519", hint=_AGAIN
        )
    return data, signature


def _check_names(container: Container, manifest: ReleaseManifest) -> None:
    there, known = set(container.names) - {MANIFEST, SIGNATURE}, set(manifest.files)
    for names, what, expected in (
        (there - known, "holds {}, which its manifest does not name", "no other files"),
        (known - there, "has no {}, which its manifest names", "all its files"),
    ):
        if names:
            shown = ", ".join(sorted(names)[:3])
            raise IntegrityError(
                f"the release {container.path.name} {what.format(shown)}", expected=expected, hint=_AGAIN
            )


def _check_files(container: Container, manifest: ReleaseManifest, folder: Path | None, wanted: tuple[str, ...]) -> None:
    """Hash every file; with a folder, keep the ones of the wanted artifacts there, and the manifests of all."""
    names = tuple(name or manifest.default for name in wanted)
    for name in names:
        if name not in manifest.artifacts:
            raise UsageError(
                f"{container.path.name} holds no artifact {name!r}",
                expected=f"one of {', '.join(sorted(manifest.artifacts))}",
                hint=quoted(f"{container.path}{SEPARATOR}{manifest.default}"),
            )
    keep = {name for one in names for name in (one, f"{one}.json", *manifest.artifacts[one]["companions"])}
    for name in sorted(manifest.files):
        _check_file(container, name, manifest.files[name], folder / name if folder and name in keep else None)
    container.finish()
    if folder is not None:
        for name in names:
            _check_described(folder / name, manifest)


def _check_file(container: Container, name: str, expected: ReleasedFile, copy: Path | None) -> None:
    hashed, size = hashlib.sha256(), 0
    with ExitStack() as stack:
        try:
            file = None if copy is None else stack.enter_context(copy.open("xb"))
            for piece in container.chunks(name, expected.bytes):
                hashed.update(piece)
                size += len(piece)
                if file is not None:
                    file.write(piece)
        except OSError as error:
            raise OutputError(
                f"cannot copy {name} of {container.path}: {error.strerror}",
                expected=f"{expected.bytes} bytes of free space in the temporary folder",
                hint=f"df -h {quoted(tempfile.gettempdir())}, or TMPDIR=ANOTHER_FOLDER",
            ) from error
    if size != expected.bytes or hashed.hexdigest() != expected.sha256:
        found = f"{size} bytes" if size != expected.bytes else f"the SHA-256 {hashed.hexdigest()[:16]}..."
        raise IntegrityError(
            f"{name} of the release {container.path.name} has {found}",
            expected=f"{expected.bytes} bytes, {expected.sha256[:16]}..., as its manifest says",
            hint=_AGAIN,
        )


def _check_described(copy: Path, manifest: ReleaseManifest) -> None:
    """What the release says of an artifact is what the artifact says of itself, but for names of other files."""
    artifact = Artifact.read(copy)
    own, told = describe([artifact])[copy.name], dict(manifest.artifacts[copy.name])
    for values in (own, told):
        values["lineage"] = [one["sha256"] for one in values["lineage"]]
    if own != told or {one.name for one in files_of(copy, artifact.manifest)} - set(manifest.files):
        wrong = next((key for key in own if own[key] != told.get(key)), "files")
        raise IntegrityError(
            f"{MANIFEST} says another {wrong} of {copy.name} than its own manifest",
            expected="the same",
            hint=_AGAIN,
        )
