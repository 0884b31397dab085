"""Artifacts -> a release, and its signature. Both are reproducible: the same files and key give the same bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Final

from medattn_edge.artifact import Artifact
from medattn_edge.atomic import check_folder, replacing, sync
from medattn_edge.errors import InputError, IntegrityError, OutputError, UsageError, quoted
from medattn_edge.host.system import set_mode
from medattn_edge.nearby import place_hint
from medattn_edge.newer_python import UTC
from medattn_edge.release.artifacts import describe, files_of
from medattn_edge.release.container import CHUNK, opened_container, pack
from medattn_edge.release.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    RESERVED,
    SBOM,
    SIGNATURE,
    ReleasedFile,
    ReleaseManifest,
    file_name_fault,
    is_release_name,
)
from medattn_edge.release.reports import report_files
from medattn_edge.release.sbom import bill_of_materials
from medattn_edge.release.verify import VerifiedRelease, is_release_address, verify

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_MAX_ZIP: Final = 2_000_000_000  # what zipfile writes without its second format, with a margin that it wants
_EPOCH: Final = "SOURCE_DATE_EPOCH"


def write_release(
    artifacts: Sequence[Path],
    output: Path,
    *,
    name: str = "",
    version: int = 1,
    default: str = "",
    documents: Sequence[Path] = (),
    report: Sequence[Path] = (),
) -> VerifiedRelease:
    """Write artifacts with their manifests and companions, documents, a manifest of all, and a bill of materials.

    Args:
        artifacts: model files, each beside its manifest.
        output: a folder, or a .zip; nothing may be there.
        name: of the release, by default made from the default artifact's file name.
        version: a whole number above 0; larger than that of the release before.
        default: the file name of the artifact that is opened where none is named; by default the first.
        documents: further files for people and auditors, such as how it was made: hashed and signed as all are, and
            never opened as an artifact.
        report: the folder, or the two files, that `evidence.write_report` wrote; kept as report.html and report.json.

    Returns:
        The release, read again and checked.

    Raises:
        UsageError: for files that cannot lie in one folder, a name or a number that no release has, and where
            something is at `output`.
        InputError: for a document that is not there, and for what is no report.
        IntegrityError: for an artifact that is not what its manifest says, and a report of other artifacts.
        AgreementError: for a report whose verdict is not pass.
        OutputError: when it cannot be written.
        MissingDependency: without cyclonedx-python-lib.
    """
    output, paths = Path(output), [Path(path) for path in artifacts]
    _check_output(output)
    _check_artifacts(paths)
    read = [Artifact.read(path) for path in paths]
    sources = {**_sources(read, [Path(path) for path in documents]), **report_files(report, read)}
    chosen = default or paths[0].name
    if chosen not in {path.name for path in paths}:
        names = ", ".join(path.name for path in paths)
        raise UsageError(
            f"the default {chosen!r}", expected=f"one of {names}", hint=f"--default {quoted(paths[0].name)}"
        )
    name = name or _name_from(chosen)
    if not is_release_name(name):
        raise UsageError(f"the name {name!r}", expected="up to 64 of a-z, 0-9, -, _ and .", hint="--name lungs-ct")
    if version < 1:
        raise UsageError(f"the version {version}", expected="a whole number above 0", hint="--release-version 1")
    created = _created()
    with _folder_beside(output) as folder:
        files = {file: _copied(source, folder / file) for file, source in sorted(sources.items())}
        copies = [Artifact.read(folder / path.name) for path in paths]  # whoever changed a file while it was copied
        tools = {"medattn-edge": version_of("medattn-edge")}
        manifest = ReleaseManifest(name, version, chosen, describe(copies), files, tools, created)
        files[SBOM] = _written(folder / SBOM, bill_of_materials(manifest))
        _written(folder / MANIFEST, replace(manifest, files=files).to_bytes())
        verify(folder)
        _put(folder, output)
    return verify(output)


def sign_release(path: Path, key: Ed25519PrivateKey) -> VerifiedRelease:
    """Check a release and write release.sig, the Ed25519 signature (RFC 8032, 64 bytes) of release.json.

    A signature that is there is replaced: a release has one.

    Args:
        path: of the folder or the .zip.
        key: the private key.

    Raises:
        InputError, IntegrityError: as `verify` does: what is damaged is not signed.
        OutputError: when it cannot be written.
    """
    path = Path(path)
    before = verify(path)
    with opened_container(path) as container:
        data = b"".join(container.chunks(MANIFEST, MAX_MANIFEST_BYTES))
    if hashlib.sha256(data).hexdigest() != before.manifest_sha256:
        raise IntegrityError(f"{path} changed while it was signed", expected="the same release", hint="sign it again")
    signature = key.sign(data)
    if path.is_dir():
        _sign_folder(path, signature)
    else:
        _sign_zip(path, signature)
    return verify(path)


def _sign_folder(path: Path, signature: bytes) -> None:
    """By way of a file beside the folder: one of another name in it would be a damaged release."""
    beside: str | None = None
    try:
        descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.resolve().parent)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
            file.write(signature)
            set_mode(descriptor, 0o644)
            file.flush()
            os.fsync(descriptor)
        Path(beside).replace(path / SIGNATURE)
    except OSError as error:
        if beside is not None:
            Path(beside).unlink(missing_ok=True)
        raise _not_written(path / SIGNATURE, error) from error


def _sign_zip(path: Path, signature: bytes) -> None:
    with opened_container(path) as container, replacing(path) as beside, beside.open("wb") as file:
        sizes = {name: sum(map(len, container.chunks(name, _MAX_ZIP))) for name in container.names}
        sizes[SIGNATURE] = len(signature)

        def contents(name: str) -> Iterator[bytes]:
            return iter([signature]) if name == SIGNATURE else container.chunks(name, _MAX_ZIP)

        pack(file, list(sizes.items()), contents)


def _check_output(output: Path) -> None:
    check_folder(output)
    if os.path.lexists(output):
        raise UsageError(
            f"{output} exists",
            expected="a new folder or .zip: a release is never changed",
            hint=f"-o {quoted(output.with_name(output.stem + '-2' + output.suffix))}",
        )


def _check_artifacts(paths: Sequence[Path]) -> None:
    hint = "medattn-edge release write NET.onnx -o DIR"
    if not paths:
        raise UsageError("no artifact", expected="one or more", hint=hint)
    for path in paths:
        if is_release_address(path):
            raise UsageError(f"{path} is a release", expected="artifacts, with the manifests beside them", hint=hint)


def _sources(artifacts: Sequence[Artifact], documents: Sequence[Path]) -> dict[str, Path]:
    """Name in the release -> file."""
    sources: dict[str, Path] = {}
    for path in (path for artifact in artifacts for path in files_of(artifact.path, artifact.manifest)):
        _add_source(sources, path, f"export it again with -o NAME{path.suffix}")
    for path in documents:
        if not path.is_file():
            raise InputError(f"the document {path} is no file", expected="a file", hint=place_hint(path))
        _add_source(sources, path, f"give it another name, such as NAME{path.suffix}")
    return sources


def _add_source(sources: dict[str, Path], path: Path, hint: str) -> None:
    """Raises UsageError for a name that no release can have, and for one that is taken."""
    fault = file_name_fault(path.name)
    fault = fault or ("is one of the release's own" if path.name.lower() in RESERVED else "")
    if fault:
        raise UsageError(f"the file name {path.name!r} {fault}", expected="a name that every disk can hold", hint=hint)
    same = [name for name in sources if name.lower() == path.name.lower()]
    if same:
        raise UsageError(
            f"two files of the name {path.name}: {sources[same[0]]} and {path}",
            expected="names that differ: they lie in one folder",
            hint=f"make one of them again with -o ANOTHER{path.suffix}",
        )
    sources[path.name] = path


def _name_from(file: str) -> str:
    stem = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in Path(file).stem.lower())
    return stem.strip("-_.")[:64] or "model"


def _created() -> str | None:
    """The time of SOURCE_DATE_EPOCH (https://reproducible-builds.org/specs/source-date-epoch/), None without it."""
    text = os.environ.get(_EPOCH)
    if text is None:
        return None
    try:
        return datetime.fromtimestamp(int(text), UTC).isoformat()
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"{_EPOCH}={text!r}", expected="whole seconds since 1970", hint=f"unset {_EPOCH}") from error


@contextmanager
def _folder_beside(output: Path) -> Iterator[Path]:
    """A folder on the same disk, removed in the end unless it was moved. Raises OutputError."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".tmp", dir=output.parent))
    except OSError as error:
        raise _not_written(output, error) from error
    try:
        yield folder
    except OSError as error:
        raise _not_written(output, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copied(source: Path, target: Path) -> ReleasedFile:
    hashed, size = hashlib.sha256(), 0
    with source.open("rb") as file, target.open("xb") as into:
        while piece := file.read(CHUNK):
            hashed.update(piece)
            size += into.write(piece)
        into.flush()
        os.fsync(into.fileno())
    return ReleasedFile(hashed.hexdigest(), size)


def _written(path: Path, data: bytes) -> ReleasedFile:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return ReleasedFile(hashlib.sha256(data).hexdigest(), len(data))


def _put(folder: Path, output: Path) -> None:
    """The folder in its place, or as a .zip."""
    if output.suffix.lower() != ".zip":
        folder.chmod(0o755)
        for path in (*folder.iterdir(), folder):
            sync(path)
        folder.rename(output)  # onto a folder that appeared meanwhile it fails, unless that is empty
        return
    sizes = [(path.name, path.stat().st_size) for path in folder.iterdir()]
    if sum(size for _, size in sizes) >= _MAX_ZIP:
        raise UsageError("more than 2 GB for a .zip", expected="a folder", hint=f"-o {quoted(output.stem)}")

    def contents(name: str) -> Iterator[bytes]:
        with (folder / name).open("rb") as file:
            while piece := file.read(CHUNK):
                yield piece

    with replacing(output) as beside, beside.open("wb") as file:
        pack(file, sizes, contents)


def _not_written(output: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {output}: {error.strerror or error}",
        expected="free space and permission to write; nothing was left behind",
        hint=f"df -h {quoted(output.parent)}; ls -ld {quoted(output.parent)}",
    )
