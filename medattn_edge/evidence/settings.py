"""What a report looks at beside its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from medattn_edge.evaluation import BenchSettings, ComparisonSettings


@dataclass(frozen=True)
class ReportSettings:
    """How evidence is gathered.

    Attributes:
        runtimes: of .onnx artifacts: names, or `all`; empty as `compare` has it.
        comparison: how the artifacts are compared with the reference.
        timing: how they are timed; None not to time them. Threads are those of `comparison`, and so is the device.
        pictures: worst slices of each artifact to draw; 0 for none. They show the scan itself.
        identify: whether the names of scans and of their labels' files may be in the report.
        attention: whether every artifact's attention maps are shown beside the eager network's, as `explain` has them.
        layers: whether the SQNR of every artifact's layers is measured, as `bisect` does.
    """

    runtimes: Sequence[str] = ()
    comparison: ComparisonSettings = field(default_factory=ComparisonSettings)
    timing: BenchSettings | None = field(default_factory=BenchSettings)
    pictures: int = 3
    identify: bool = False
    attention: bool = False
    layers: bool = False
