"""Identities that follow from what went in, so that the same work done again is the same object to an archive."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version

from medattn_edge.errors import UsageError

_LONGEST = 64  # characters of DICOM's long strings


@dataclass(frozen=True)
class Algorithm:
    """What made a segmentation.

    Attributes:
        name: 1 to 64 characters.
        version: 1 to 64 characters.
        model_sha256: of the artifact, 64 hexadecimal digits.
        settings: what else decides the labels, such as "overlap=0.5"; another text is another identity.

    Raises:
        UsageError: for texts that DICOM cannot hold.
    """

    name: str
    version: str
    model_sha256: str
    settings: str = ""

    def __post_init__(self) -> None:
        texts = {"name": self.name, "version": self.version}
        for what, text in texts.items():
            if not 0 < len(text.strip()) <= _LONGEST or not text.isprintable() or "\\" in text:
                raise UsageError(
                    f"the algorithm's {what} {text!r}",
                    expected=f"1 to {_LONGEST} characters, without backslashes",
                    hint="lungs-attention-unet-2d",
                )
        if len(self.model_sha256) != 64 or set(self.model_sha256) - set("0123456789abcdef"):
            raise UsageError(
                f"the model's hash {self.model_sha256!r}",
                expected="64 hexadecimal digits",
                hint="artifact.sha256(path)",
            )


@dataclass(frozen=True)
class Identity:
    """What the UIDs of an object follow from.

    Attributes:
        series_instance_uid: of the input.
        sop_instance_uids: of all its instances, in any order.
        algorithm: that made the object.
        kind: of the object.
    """

    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]
    algorithm: Algorithm
    kind: str

    def uid(self, *parts: object) -> str:
        """A UID below 2.25 for some parts of this identity.

        The same for the same identity, parts and major version of medattn-edge, in any order of the instances, and
        another one for everything else.
        """
        made_by = [
            self.algorithm.model_sha256,
            self.algorithm.settings,
            self.kind,
            version("medattn-edge").split(".")[0],
        ]
        return _uid([self.series_instance_uid, *sorted(self.sop_instance_uids), *made_by, *map(str, parts)])


def _uid(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)  # no two lists of texts are the same bytes
    return f"2.25.{uuid.UUID(bytes=digest.digest()[:16], version=5).int}"
