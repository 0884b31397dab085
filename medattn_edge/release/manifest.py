"""The manifest of a release: which files it holds, what they are made from, and under which name and number.

Its bytes are what is signed, so there is one way to write it: `to_bytes`. A file that says the same in other bytes is
not taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from medattn_edge.errors import IntegrityError
from medattn_edge.installation import upgrade_line

SCHEMA: Final = 1
KIND: Final = "medattn-edge release"  # no signature of anything else can stand for that of a release
MANIFEST: Final = "release.json"
SIGNATURE: Final = "release.sig"
SBOM: Final = "sbom.cdx.json"
REPORT_PAGE: Final = "report.html"
REPORT_DOCUMENT: Final = "report.json"
RESERVED: Final = (MANIFEST, SIGNATURE, SBOM, REPORT_PAGE, REPORT_DOCUMENT)
MAX_MANIFEST_BYTES: Final = 4 << 20
MAX_FILES: Final = 1000
_MAX_VERSION: Final = 1 << 53  # what every reader of JSON can hold
_FILE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_AGAIN: Final = "copy the release again from where it was made"


@dataclass(frozen=True)
class ReleasedFile:
    """One file of a release.

    Attributes:
        sha256: hexadecimal, of all its bytes.
        bytes: how many they are.
    """

    sha256: str
    bytes: int


@dataclass(frozen=True)
class ReleaseManifest:
    """What a release is.

    Attributes:
        name: of the release, the same for all its versions.
        version: 1 or more; a node takes no smaller one than it has served.
        default: the artifact that is opened where none is named.
        artifacts: file name -> network, labels, precision, SHA-256, lineage, calibration, thresholds, target and tools,
            as the artifact's own manifest has them (`release.artifacts.describe`).
        files: name -> hash and size of every file but the manifest and the signature.
        tools: name -> version of what wrote the release.
        created: ISO 8601 in UTC, from SOURCE_DATE_EPOCH; None where that was not set.
    """

    name: str
    version: int
    default: str
    artifacts: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, ReleasedFile]
    tools: Mapping[str, str] = field(default_factory=dict)
    created: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for what no release can have."""
        if not is_release_name(self.name):
            raise ValueError(f"the name {self.name!r}")
        if type(self.version) is not int or not 1 <= self.version < _MAX_VERSION:
            raise ValueError(f"the version {self.version!r}")
        check_file_names(self.files)
        if not self.artifacts or not set(self.artifacts) <= set(self.files) or set(self.artifacts) & set(RESERVED):
            raise ValueError("artifacts that are none of its files")
        if self.default not in self.artifacts:
            raise ValueError(f"the default artifact {self.default!r}")
        for name, values in self.artifacts.items():
            _check_artifact(name, values, self.files)
        for name, one in self.files.items():
            if not _SHA256.fullmatch(one.sha256) or type(one.bytes) is not int or one.bytes < 0:
                raise ValueError(f"the hash or the size of {name}")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values with the schema's version."""
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "name": self.name,
            "version": self.version,
            "default": self.default,
            "artifacts": {name: dict(values) for name, values in self.artifacts.items()},
            "files": {name: {"sha256": one.sha256, "bytes": one.bytes} for name, one in self.files.items()},
            "tools": dict(self.tools),
            **({} if self.created is None else {"created": self.created}),
        }

    def to_bytes(self) -> bytes:
        """The bytes of release.json: ASCII, keys in order, two spaces, one newline in the end."""
        return _canonical(self.to_json())

    @classmethod
    def from_bytes(cls, data: bytes) -> ReleaseManifest:
        """The reverse.

        Raises:
            IntegrityError: for a newer schema, and for bytes that `to_bytes` would not write.
        """
        try:
            values = json.loads(data.decode("ascii"))
        except (ValueError, RecursionError) as error:
            raise _unreadable(str(error)) from error
        if not isinstance(values, dict) or values.get("kind") != KIND or type(values.get("schema")) is not int:
            raise _unreadable("it is not of a release")
        if values["schema"] > SCHEMA:
            raise IntegrityError(
                f"a release of schema {values['schema']}",
                expected=f"schema {SCHEMA} or older",
                hint=upgrade_line(),
            )
        try:
            rest = {key: value for key, value in values.items() if key not in ("kind", "schema")}
            files = {name: ReleasedFile(**one) for name, one in rest.pop("files").items()}
            manifest = cls(**rest, files=files)
            if manifest.to_bytes() != data:  # a key that comes twice, another order, spacing or way of a number
                raise ValueError("its bytes are not as they were written")
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise _unreadable(str(error)) from error
        return manifest


def _check_artifact(name: str, values: Any, files: Mapping[str, Any]) -> None:
    """Raises ValueError where what is read of an artifact before it is opened is missing or of another kind."""
    if not isinstance(values, Mapping):
        raise ValueError(f"what it says of {name}")
    companions, lineage = values.get("companions"), values.get("lineage")
    if not isinstance(companions, Mapping) or not {f"{name}.json", *companions} <= set(files):
        raise ValueError(f"the companions of {name}")
    if not isinstance(lineage, list) or len(lineage) < 2 or not all(_is_step(one) for one in lineage):
        raise ValueError(f"the lineage of {name}")
    digests = (values.get("sha256"), values.get("content_sha256"))
    if not all(isinstance(one, str) and _SHA256.fullmatch(one) for one in digests):
        raise ValueError(f"the hash of {name}")
    texts = (values.get(key) for key in ("network", "precision", "exporter"))
    if not all(isinstance(one, str) for one in texts) or not isinstance(values.get("tools"), Mapping):
        raise ValueError(f"the network, precision, exporter or tools of {name}")


def _is_step(one: Any) -> bool:
    if not isinstance(one, Mapping) or not all(isinstance(one.get(key), str) for key in ("sha256", "made")):
        return False
    return one.get("file") is None or isinstance(one["file"], str)


def is_release_name(name: object) -> bool:
    """Whether a release may be called so: up to 64 of a-z, 0-9, `-`, `_` and `.`, a letter or digit first."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def file_name_fault(name: str) -> str:
    """Why a file of a release cannot have a name, "" when it can. No name leads out of the folder."""
    if "\0" in name:
        return "holds a NUL"
    if "/" in name or "\\" in name or name in (".", "..", ""):
        return "leads to another folder"
    return "" if _FILE.fullmatch(name) else "is not made of A-Z, a-z, 0-9, `_`, `.`, `+` and `-`"


def check_file_names(names: Mapping[str, Any] | tuple[str, ...]) -> None:
    """Raises ValueError for names that no release has: others than `file_name_fault` allows, two of one name."""
    if len(names) > MAX_FILES:
        raise ValueError(f"{len(names)} files, more than {MAX_FILES}")
    seen: dict[str, str] = {}
    for name in names:
        fault = file_name_fault(name)
        if fault:
            raise ValueError(f"the name {name!r} {fault}")
        before = seen.setdefault(name.lower(), name)
        if before != name:
            raise ValueError(f"{name!r} and {before!r} are one file on a disk that knows no case")
    if len(seen) != len(names):
        raise ValueError("two files of one name")


def _canonical(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def _unreadable(why: str) -> IntegrityError:
    return IntegrityError(
        f"{MANIFEST} cannot be read: {why}", expected=f"the manifest of a release, schema {SCHEMA}", hint=_AGAIN
    )
