"""CohortSettings: what is written of every case, under which name, and how it is segmented."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, get_args

from medattn_edge.errors import UsageError, quoted
from medattn_edge.host.cores import usable_cores
from medattn_edge.inference import Opening, SegmentSettings

if TYPE_CHECKING:
    from medattn_edge.inference.dicom_results import SegKind

STANDARD_NAME = "{case}_labels.nii.gz"
CASE_TIMEOUT_S: Final = 3600.0
Engine = Literal["local", "ray"]
MAX_TRIES: Final = 3  # of a case whose worker is lost


@dataclass(frozen=True)
class PoolSettings:
    """Who does the work of a cohort.

    Attributes:
        workers: how many sessions there are, each in a process of its own; a local one by itself is in this process.
        case_timeout_s: after which a worker that does not finish a case is ended, in s; no limit in this process.
        engine: what starts the processes: `local`, on this host, or `ray`.
        address: of a Ray cluster that this host is a node of, HOST:PORT or auto; "" for a Ray on this host alone.
    """

    workers: int = 1
    case_timeout_s: float = CASE_TIMEOUT_S
    engine: Engine = "local"
    address: str = ""

    @property
    def has_workers(self) -> bool:
        """Whether the work is done in other processes."""
        return self.workers > 1 or self.engine == "ray"

    def check(self) -> None:
        """Raise UsageError for settings that make no sense together."""
        if self.workers < 1:
            raise UsageError(f"{self.workers} workers", expected="1 or more", hint="--workers 2")
        if not self.case_timeout_s > 0:
            raise UsageError(
                f"a timeout of {self.case_timeout_s:g} s", expected="more than 0", hint="--case-timeout 600"
            )
        if self.engine not in get_args(Engine):
            engines = " or ".join(get_args(Engine))
            raise UsageError(f"the engine {self.engine!r}", expected=engines, hint="--engine local")
        if self.address and self.engine != "ray":
            raise UsageError(
                f"the address {self.address!r} with the engine {self.engine}",
                expected="the engine ray, which has clusters",
                hint=f"--engine ray --address {quoted(self.address)}",
            )

    def opening(self, opening: Opening) -> Opening:
        """How each worker opens the artifact: cores whose threads nobody chose are divided among the workers.

        On a cluster a worker has one thread then: how its hosts divide is not known here, and many workers of one
        thread do more than few of many.
        """
        threads = opening.threads or (1 if self.address else max(1, usable_cores() // self.workers))
        return replace(opening, threads=threads, shared_cores=self.workers > 1 or bool(self.address))


@dataclass(frozen=True)
class CohortSettings:
    """What is written of every case, under which name, and how it is segmented.

    The names are patterns with `{case}`, the case's own name, and `{folder}`, the name of the folder its scan lies in
    (empty for DICOM, unless paths were asked for).

    Attributes:
        name: of the labels; its suffix decides the format, `.dcm` being a DICOM segmentation.
        probabilities: of the maps of probabilities, "" to write none.
        attention: of the attention maps, "" to write none.
        overlay: of the pictures, "" to draw none.
        rtstruct: of the RT structure sets of DICOM series, "" to write none.
        sr: of the measurement reports on DICOM segmentations, "" to write none.
        key_slices: beside a DICOM segmentation, at most so many slices with outlines.
        seg_kind: of a DICOM segmentation, None for binary.
        regions: as of `Outputs`.
        parquet: also write what came of every case as Parquet, in parts of a thousand cases.
        resume: go on in a folder with results: what is done, by content, is not done again.
        segment: how to segment.
        opening: how to open the artifact; its threads are those of each worker.
        pool: who does the work.
    """

    name: str = STANDARD_NAME
    probabilities: str = ""
    attention: str = ""
    overlay: str = ""
    rtstruct: str = ""
    sr: str = ""
    key_slices: int = 0
    seg_kind: SegKind | None = None
    regions: Literal["maps", "label-map"] | None = None
    parquet: bool = False
    resume: bool = False
    segment: SegmentSettings = field(default_factory=SegmentSettings)
    opening: Opening = field(default_factory=Opening)
    pool: PoolSettings = field(default_factory=PoolSettings)
