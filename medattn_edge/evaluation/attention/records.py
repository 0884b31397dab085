"""Records of an explanation: how it is made, where the deployed maps come from, and what was seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medattn_edge.agreement import IDENTICAL_DB
from medattn_edge.evaluation.attention.agreement import MapAgreement
from medattn_edge.inference.segment import Segmentation
from medattn_edge.spec import ModelSpec
from medattn_edge.volume import Array, Volume

if TYPE_CHECKING:
    from medattn_edge.foreign import SourceOptions

FROM_FILE, FROM_COPY = "file", "copy"
_COMPUTING = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Sigmoid", "Softmax")  # and not only put together


@dataclass(frozen=True)
class ExplainSettings:
    """How a scan is explained.

    Attributes:
        runtime: of an .onnx file, as `compare --runtime` names it; empty for its usual one.
        threads: of the CPU; 0 for as many as there are usable cores.
        overlap: of neighbouring windows; None: that of each file.
        batch: windows per run.
        timeout_s: of opening the deployed file, and of one run.
        scratch: folder for maps that do not fit in memory.
        source: how to read a reference that is no checkpoint of ours, as it was said to `export`.
    """

    runtime: str = ""
    threads: int = 0
    overlap: float | None = None
    batch: int | None = None
    timeout_s: float = 600.0
    scratch: Path | None = None
    source: SourceOptions | None = None


@dataclass(frozen=True)
class MapSource:
    """Where the deployed maps come from.

    Attributes:
        kind: `file`, the deployed file's own output; `copy`, a copy of its graph to which only outputs were added.
        added: operator type -> how many the copy has more.
        tensors: the deployed graph's own that these read.
        logits: how near the copy's logits are to those of the deployed file on this scan: `sqnr_db`, `max_abs`.
        matrices_missing: why there is no channel attention, empty where there is or the network has none.
    """

    kind: str
    added: Mapping[str, int] = field(default_factory=dict)
    tensors: tuple[str, ...] = ()
    logits: Mapping[str, float] = field(default_factory=dict)
    matrices_missing: str = ""

    @property
    def sentence(self) -> str:
        """The same for people."""
        if self.kind == FROM_FILE:
            return "the deployed maps are the deployed file's own output"
        added = ", ".join(f"{count} {name}" for name, count in self.added.items())
        near = self.logits["sqnr_db"]
        proof = (
            "equal those of the deployed file, bit for bit"
            if near >= IDENTICAL_DB
            else f"are {near:.1f} dB from those of the deployed file (largest difference {self.logits['max_abs']:.3g})"
        )
        again = ", ".join(name for name in self.added if name in _COMPUTING)
        proof += f"; {again} of these compute a part of the network again, in FP32" if again else ""
        return (
            "the deployed file has no such output: a copy of its graph gave the deployed maps, to which only outputs "
            f"were added ({added}), from {len(self.tensors)} of its own tensors; the copy's logits on this scan {proof}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "from": self.kind,
            "operators_added": dict(self.added),
            "tensors": list(self.tensors),
            "logits": dict(self.logits),
            "channel_attention_missing": self.matrices_missing,
        }


@dataclass(frozen=True, eq=False)
class Side:
    """One network on the scan.

    Attributes:
        segmentation: labels and maps on the scan's own grid.
        matrices: channel attention of the first windows, float32 (windows, M, C, C); M is 0 without.
        facts: what ran where.
    """

    segmentation: Segmentation
    matrices: Array
    facts: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a network attends to in one scan.

    Attributes:
        scan: what stands for the scan: the key of its series, or a hash of its voxels; never a name.
        volume: the scan as the network is given it, on its own grid.
        spec: of the network.
        reference: the eager network.
        artifact: what is deployed, None without one.
        source: where the deployed maps come from, None without an artifact.
        maps: the agreement of each.
        matrices: the agreement of each channel attention, over the windows that were kept.
        label_match: share of voxels with the same label, None without an artifact.
        dice: of the deployed labels with the reference's.
        notes: what a reader should know.
    """

    scan: str
    volume: Volume
    spec: ModelSpec
    reference: Side
    artifact: Side | None
    source: MapSource | None
    maps: tuple[MapAgreement, ...]
    matrices: tuple[MapAgreement, ...]
    label_match: float | None
    dice: Mapping[str, float]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The document of `explain --json`, without the files."""
        windows = self.reference.segmentation.windows.total
        return {
            "scan": self.scan,
            "network": self.spec.network,
            "maps": [one.to_json() for one in self.maps],
            "channel_attention": [one.to_json() for one in self.matrices],
            "windows": windows,
            "label_match": self.label_match,
            "dice": dict(self.dice),
            "artifact_maps": None if self.source is None else self.source.to_json(),
            "reference_session": dict(self.reference.facts),
            "artifact_session": None if self.artifact is None else dict(self.artifact.facts),
            "notes": list(self.notes),
        }
