"""Seen scan: the labels of the reference and of every candidate on one scan, which a comparison does not keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medattn_edge.io import Scan
from medattn_edge.labels import Meaning
from medattn_edge.spec import Code, Intensity
from medattn_edge.volume import Volume


@dataclass(frozen=True, eq=False)
class SeenScan:
    """One scan of one graph's runs; whoever is called with it keeps what it needs.

    Attributes:
        index: of the scan among those that were given, from 0.
        scan: where it lies.
        name: for reports.
        volume: (D, H, W) or (C, D, H, W), as it was read.
        meaning: of all labels.
        reference: the reference's labels (D, H, W).
        true_labels: (D, H, W) on the same grid; None where there are none.
        candidates: (file, runtime) -> labels (D, H, W), of those that finished the scan.
        intensity: of the network, whose window pictures show.
        codes: of labels, by name, as the spec has them: pictures give organs the colours of them.
    """

    index: int
    scan: Scan
    name: str
    volume: Volume
    meaning: Meaning
    reference: Volume
    true_labels: Volume | None
    candidates: Mapping[tuple[Path, str], Volume]
    intensity: Intensity = field(default_factory=Intensity)
    codes: Mapping[str, Code] = field(default_factory=dict)


Observer = Callable[[SeenScan], None]
