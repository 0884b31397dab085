"""The names of everything in a node's root folder, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

SEG: Final = "seg.dcm"
RTSTRUCT: Final = "rtstruct.dcm"
SR: Final = "sr.dcm"
PROBABILITIES: Final = "probabilities.dcm"
OVERLAY: Final = "overlay.png"
LETTER: Final = "letter.json"


@dataclass(frozen=True)
class Layout:
    """Paths below a root. Names that start with a dot are unfinished and are removed at the next start.

    Attributes:
        root: the folder of everything that a node keeps.
    """

    root: Path

    @property
    def database(self) -> Path:
        """What was received, is to be segmented and is to be delivered."""
        return self.root / "node.sqlite"

    @property
    def site_key(self) -> Path:
        """The secret that series keys are made with."""
        return self.root / "site.key"

    @property
    def lock(self) -> Path:
        """Held by the node that runs."""
        return self.root / "node.lock"

    @property
    def spool(self) -> Path:
        """KEY/NAME.dcm: received objects."""
        return self.root / "spool"

    @property
    def quarantine(self) -> Path:
        """KEY/NAME.dcm: received objects of series whose latest version is in quarantine."""
        return self.root / "quarantine"

    @property
    def objects(self) -> Path:
        """NAME.dcm: single objects in quarantine, which belong to no series or not into it."""
        return self.quarantine / "objects"  # no series key: those have 32 digits

    @property
    def results(self) -> Path:
        """KEY/vN/: what was written for each version of a series."""
        return self.root / "results"

    @property
    def dead_letters(self) -> Path:
        """KEY-vN-DESTINATION/: results that a destination never took."""
        return self.root / "dead"

    @property
    def watched(self) -> Path:
        """Which files of the watched folder were taken."""
        return self.root / "watched.json"

    @property
    def canaries(self) -> Path:
        """The known answer of each model's canary."""
        return self.root / "canary.json"

    @property
    def releases(self) -> Path:
        """The largest version of each release that was served here."""
        return self.root / "releases.json"

    @property
    def canary_lock(self) -> Path:
        """Held by the worker that writes an answer down."""
        return self.root / "canary.lock"

    def result(self, key: str, version: int) -> Path:
        """The folder of a result."""
        return self.results / key / f"v{version}"

    def working_folder(self, key: str, version: int, attempt: int) -> Path:
        """Where a worker writes a result, until it is published."""
        return self.results / key / f".v{version}-{attempt}"

    def dead_letter(self, key: str, version: int, destination: str) -> Path:
        """The folder of a result that a destination never took."""
        return self.dead_letters / f"{key}-v{version}-{destination}"
