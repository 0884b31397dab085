"""What a report may say of where its scans came from: nothing, unless asked."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.evaluation.seen_scan import SeenScan
from medattn_edge.io import Scan
from medattn_edge.volume import Array, Volume


class CaseNames:
    """The scans' names in texts of other rooms, and what stands for them in the report.

    Args:
        identify: whether scans keep their own names, without their folders.
    """

    def __init__(self, *, identify: bool) -> None:
        self._identify = identify
        self._words: dict[str, str] = {}

    @classmethod
    def of_files(cls, scans: Sequence[Scan], labels: Sequence[Path] = (), *, identify: bool = False) -> CaseNames:
        """Those of scans, and of their files of true labels, in order."""
        names = cls(identify=identify)
        for number, scan in enumerate(scans, start=1):
            names.add(number, [str(scan.path), scan.name, *map(str, scan.paths)], scan.name)
        for number, path in enumerate(labels, start=1):
            names.add(number, [str(path)], path.name, "the labels of ")
        return names

    def add(self, number: int, texts: Iterable[str], name: str, what: str = "") -> None:
        """Know a scan.

        Args:
            number: of the case, from 1.
            texts: every way in which texts may speak of it: paths, names, names of its files of labels.
            name: its own.
            what: before `case 1`, of a file that belongs to a scan.
        """
        stands = name if self._identify else f"{what}case {number}"
        for text in texts:
            path = Path(text)
            # A path of several channels is T1+T2; a folder above a scan is as often named after the patient.
            for word in (text, *text.split("+"), path.name, *(Path(one).name for one in text.split("+"))):
                if len(word) > 1:
                    self._words.setdefault(word, stands)
            for one in text.split("+"):
                self._words.setdefault(str(Path(one).resolve()), stands)

    def of(self, seen: SeenScan) -> str:
        """What the report calls a scan."""
        return seen.name if self._identify else f"case {seen.index + 1}"

    def cleaned(self, value: Any) -> Any:
        """JSON values, or a text, with every name of a scan replaced, the longest first."""
        if isinstance(value, str):
            words = "|".join(map(re.escape, sorted(self._words, key=len, reverse=True)))
            # Whole words: a scan that is called `ct` is not in `rejected`. All at once: none is in what stands for one.
            return re.sub(rf"(?<!\w)(?:{words})(?!\w)", lambda found: self._words[found[0]], value) if words else value
        if isinstance(value, dict):
            return {self.cleaned(key): self.cleaned(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.cleaned(one) for one in value]
        return value


def voxels_sha256(volume: Volume) -> str:
    """The SHA-256 of the voxels and their affine, as they were read; nothing of a header is in it."""
    hashed = hashlib.sha256(f"{volume.voxels.shape} {volume.voxels.dtype.str}".encode())
    hashed.update(np.ascontiguousarray(volume.affine, dtype="<f8").tobytes())
    planes: Array = volume.voxels.reshape(-1, *volume.voxels.shape[-2:])
    for plane in planes:
        hashed.update(np.ascontiguousarray(plane).tobytes())
    return hashed.hexdigest()
