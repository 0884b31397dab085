"""Reference cache: the reference's logits of whole scans as files, so that several comparisons run it once.

What is kept is what was computed, float by float: a comparison has the same figures with it as without.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from medattn_edge.artifact import sha256, tool_versions
from medattn_edge.backends.session import Session
from medattn_edge.host import hardware
from medattn_edge.inference.preprocess import Prepared
from medattn_edge.inference.resample import Floats

_MAX_BYTES: Final = 4 << 30  # of one scan's logits: beyond it reading takes as long as running a small network
_MAX_FRACTION: Final = 0.5  # of the free disk, which the artifacts of a deployment want too


@dataclass(frozen=True)
class ReferenceCache:
    """A folder of logits.

    Attributes:
        folder: made when something is kept; whoever gives it keeps other processes out of it.
        source: what stands for the reference beside its spec: its files, and how they are read.
    """

    folder: Path
    source: str

    def of(self, session: Session, prepared: Prepared, how: tuple[float, int]) -> KeptLogits:
        """The place of one scan's logits.

        Args:
            session: the reference.
            prepared: the scan on its grid.
            how: the overlap of its windows, and how many are in a run: sums of floats depend on both.
        """
        image = np.ascontiguousarray(prepared.image)
        about = {
            "source": self.source,
            "spec": session.spec.to_json(),
            "facts": {name: str(value) for name, value in session.facts.items()},
            "windows": [*how, session.batch],
            "image": hashlib.sha256(image.tobytes()).hexdigest(),
            "shapes": [image.shape, prepared.oriented.shape],
            "cpu": hardware.cpu().model,
            "tools": tool_versions(),
        }
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        grid = prepared.in_network_order(np.broadcast_to(np.uint8(0), prepared.oriented.shape))
        return KeptLogits(self.folder / f"reference-{key[:32]}.npy", int(grid.shape[0]))


@dataclass(frozen=True)
class KeptLogits:
    """The logits of one scan, which may not be there yet.

    Attributes:
        path: of their file; beside it NAME.sha256.
        count: rows of the scan.
    """

    path: Path
    count: int

    @property
    def there(self) -> bool:
        """Whether they were kept, and are what was kept."""
        try:
            return sha256(self.path) == self._digest.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return False

    @property
    def _digest(self) -> Path:
        return self.path.with_suffix(".sha256")

    def rows(self) -> Iterator[Floats]:
        """One row (K, H, W) after the other, as they were kept."""
        kept = np.load(self.path, mmap_mode="r", allow_pickle=False)
        for row in kept:
            yield np.array(row)

    def keeping(self, rows: Iterator[Floats]) -> Iterator[Floats]:
        """The same rows, which are kept once all of them have been given: only then their hash is written.

        A disk without room, or that cannot be written, is no reason to stop: the rows are only not kept.
        """
        file: IO[bytes] | None = None
        given, kept = 0, False
        try:
            for row in rows:
                if given == 0 and self._fits(row):
                    file = self._begun(row)
                given += 1
                yield row
                if file is not None and not _written(file, row):
                    file = None
            kept = file is not None and given == self.count and self._finished(file)
        finally:
            if file is not None:
                with suppress(OSError):  # what could not be written is tried once more
                    file.close()
            if not kept:
                with suppress(OSError):
                    self.path.unlink()

    def _fits(self, row: Floats) -> bool:
        needed = row.nbytes * self.count
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return needed <= min(_MAX_BYTES, _MAX_FRACTION * shutil.disk_usage(self.path.parent).free)
        except OSError:
            return False

    def _begun(self, row: Floats) -> IO[bytes] | None:
        header: dict[str, Any] = {"descr": "<f4", "fortran_order": False, "shape": (self.count, *row.shape)}
        try:
            self._digest.unlink(missing_ok=True)
            file = self.path.open("wb")
            np.lib.format.write_array_header_1_0(file, header)
        except OSError:
            return None
        return file

    def _finished(self, file: IO[bytes]) -> bool:
        try:
            file.close()
            self._digest.write_text(sha256(self.path), encoding="ascii")
        except OSError:
            return False
        return True


def _written(file: IO[bytes], row: Floats) -> bool:
    try:
        file.write(np.ascontiguousarray(row, "<f4").tobytes())
    except OSError:
        with suppress(OSError):
            file.close()
        return False
    return True
