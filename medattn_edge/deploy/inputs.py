"""Inputs: the files of a deployment, and the hashes that stand for them where names of scans must not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medattn_edge.artifact import sha256
from medattn_edge.errors import InputError, IntegrityError, UsageError, quoted
from medattn_edge.io import Scan
from medattn_edge.nearby import missing

if TYPE_CHECKING:
    from medattn_edge.foreign import ForeignNetwork, SourceOptions
    from medattn_edge.models.checkpoint import Checkpoint


@dataclass(frozen=True)
class DeploySource:
    """The network, and how it was read.

    Attributes:
        path: of the checkpoint, or of whatever else `export` takes.
        loaded: what was read from it, under the spec that it is deployed with.
        options: how the reference is read again where that had to be said; None where nothing had.
    """

    path: Path
    loaded: Checkpoint | ForeignNetwork
    options: SourceOptions | None = None


@dataclass(frozen=True)
class DeployInputs:
    """The files.

    Attributes:
        source: the network.
        scans: to calibrate on.
        held_out: to judge on and to time with; empty: a part of the only scan.
        labels: true labels of what is judged on, in order; empty where there are none.
        answers: files of the owner's own answer that the network was held to when it was read.
    """

    source: DeploySource
    scans: tuple[Scan, ...]
    held_out: tuple[Scan, ...] = ()
    labels: tuple[Path, ...] = ()
    answers: tuple[Path, ...] = ()

    @classmethod
    def of(
        cls,
        source: DeploySource,
        scans: Sequence[Scan],
        held_out: Sequence[Scan] = (),
        labels: Sequence[Path] = (),
        answers: Sequence[Path] = (),
    ) -> DeployInputs:
        """Without scans to hold out, the last one is, where there are several.

        Raises:
            UsageError: no scan, a scan in both, or labels that are not one for each scan that is judged on.
            InputError: a file that is not there.
        """
        if not scans:
            raise UsageError(
                "no scan: the ranges and the agreement of noise are not those of a patient",
                expected="at least one real scan, better two",
                hint="medattn-edge deploy CHECKPOINT SCAN... -o release",
            )
        calibrated, held = list(scans), list(held_out)
        if not held and len(calibrated) > 1:
            held = [calibrated.pop()]
        for path in [path for scan in (*calibrated, *held) for path in scan.paths] + [*labels, *answers]:
            if not path.exists():
                raise missing(path, "a file")
        places = [tuple(path.resolve() for path in scan.paths) for scan in (*calibrated, *held)]
        if len(set(places)) < len(places):
            raise UsageError(
                "a scan comes twice",
                expected="held-out scans that are not among those to calibrate on",
                hint="--held-out OTHER_SCAN",
            )
        judged = held or calibrated
        if labels and len(labels) != len(judged):
            raise UsageError(
                f"{len(labels)} label files for {len(judged)} scans to judge on",
                expected="one each, in order: of the held-out scans, or of the last scan without any",
                hint="--held-out A.nii.gz --labels A-labels.nii.gz",
            )
        return cls(source, tuple(calibrated), tuple(held), tuple(labels), tuple(answers))

    @property
    def judged(self) -> tuple[Scan, ...]:
        """The scans that candidates are judged on: those held out, or the only one."""
        return self.held_out or self.scans

    @property
    def divided(self) -> bool:
        """Whether the only scan is both calibrated and judged on, in parts that have no voxel in common."""
        return not self.held_out

    def hashes(self) -> dict[str, str]:
        """`checkpoint`, `scan 1`, `held-out scan 1`, ... -> SHA-256; a folder's is of what is in its files.

        Raises InputError for a file that cannot be read.
        """
        found = {"checkpoint": digest_of((self.source.path,))}
        for what, scans in (("scan", self.scans), ("held-out scan", self.held_out)):
            found |= {f"{what} {number}": digest_of(scan.paths) for number, scan in enumerate(scans, 1)}
        for what, paths in (("labels", self.labels), ("owner's answer", self.answers)):
            found |= {f"{what} {number}": digest_of((path,)) for number, path in enumerate(paths, 1)}
        return found

    def check_unchanged(self, hashes: dict[str, str]) -> None:
        """Raise IntegrityError when a file is another than when its hash was taken."""
        now = self.hashes()
        changed = [name for name, digest in hashes.items() if now.get(name) != digest]
        if changed:
            raise IntegrityError(
                f"{', '.join(changed)} changed while it was deployed",
                expected="the same files from the first stage to the last",
                hint="the same command again: what does not depend on the change is not run again",
            )

    def without_names(self, reason: str) -> str:
        """Why a candidate failed, with a number in the place of the name of a scan, which may be a patient's."""
        for number, scan in enumerate(self.judged, 1):
            for name in (scan.described(self.source.loaded.spec), scan.name):
                if reason.endswith(ending := f", on {name}"):
                    return f"{reason.removesuffix(ending)}, on judged scan {number}"
                if reason.startswith(beginning := f"on {name} input "):
                    return f"on judged scan {number}: {reason.removeprefix(beginning)}"
        return reason


def digest_of(paths: Sequence[Path]) -> str:
    """The SHA-256 of a file; of several, or of a folder, that of the hashes of all files in it, in order.

    Names are no part of it: they may be a patient's.

    Raises InputError for what cannot be read.
    """
    try:
        if len(paths) == 1 and not paths[0].is_dir():
            return sha256(paths[0])
        whole = hashlib.sha256()
        for path in paths:
            files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
            digests = sorted(sha256(one) for one in files)
            whole.update(f"{len(digests)}\n{''.join(digests)}\n".encode())
        return whole.hexdigest()
    except OSError as error:
        raise InputError(
            f"{error.filename or paths[0]} cannot be read: {error.strerror}",
            expected="a file that can be read",
            hint=f"ls -l {quoted(paths[0])}",
        ) from error
