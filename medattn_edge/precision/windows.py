"""Windows of scans, to calibrate and to judge on: prepared and tiled as `segment` does it.

Each scan is read, resampled and tiled once, one after the other; of it only the windows that were chosen stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medattn_edge.backends.session import Patches, Session
from medattn_edge.inference.judged import JudgedLabels
from medattn_edge.inference.preprocess import labels_on_image, prepare
from medattn_edge.inference.resample import Floats
from medattn_edge.inference.tiling import Tiling, Window
from medattn_edge.inference.truth import LabelValues
from medattn_edge.io.channels import AnyScan, as_scan
from medattn_edge.nearby import missing
from medattn_edge.spec import ModelSpec
from medattn_edge.volume import Volume

OVERLAP = 0.5  # of the windows that are chosen from, as in inference
if TYPE_CHECKING:
    from typing_extensions import Self

    from medattn_edge.io.dicom.series import Series

Labels = npt.NDArray[Any]
Truth = Callable[[Volume], Volume]


@dataclass(frozen=True, eq=False)
class ScanFacts:
    """What is known of the scans that windows were chosen from.

    Attributes:
        notes: what people should know of how they were read.
        label_values: label -> its values in the files of true labels; empty where there are none.
        judged: the labels to judge, with the audits of their true ones; None for those of the settings, without any.
    """

    notes: tuple[str, ...] = ()
    label_values: LabelValues = field(default_factory=dict)
    judged: JudgedLabels | None = None


@dataclass(frozen=True)
class ScanSource:
    """Where a scan comes from.

    Attributes:
        name: for reports; without folders, and without anything that identifies a patient.
        read: gives the volume; called once.
        truth: gives the true labels (D, H, W) of the volume, in the network's numbers and on its grid, where there
            are any.
        notes: what people should know of how it was read, after that.
    """

    name: str
    read: Callable[[], Volume] = field(repr=False, compare=False)
    truth: Truth | None = field(default=None, repr=False, compare=False)
    notes: Callable[[], tuple[str, ...]] = field(default=tuple, repr=False, compare=False)

    @classmethod
    def of(
        cls, scan: AnyScan | Volume, number: int = 1, truth: Truth | None = None, spec: ModelSpec | None = None
    ) -> Self:
        """A volume, or whatever `as_scan` finds at a path: a file, the one series of a DICOM folder, or several.

        Args:
            scan: the volume, or its path.
            number: of a volume, for its name.
            truth: see the attribute.
            spec: of the network that it is for, which says the order of several channels.

        Raises:
            UsageError: its scans do not fit the network's channels.
            InputError: the path does not exist.
            ScanError: it holds no series that can be read, or several.
        """
        if isinstance(scan, Volume):
            return cls(f"volume {number}", lambda: scan, truth)
        chosen = as_scan(scan)
        for path in chosen.paths:
            if not path.exists():
                raise missing(path, "a scan")
        series = chosen.series
        if spec is None:
            return cls(chosen.name if series is None else _series_name(series), chosen.read, truth, chosen.notes)
        chosen.assignment(spec)  # an error now, and not when it is read
        plain = series is None or len(chosen.paths) > 1
        name = chosen.described(spec) if plain or series is None else _series_name(series)
        return cls(name, lambda: chosen.read_for(spec), truth, chosen.notes)


def _series_name(series: Series) -> str:
    return f"series {series.hash}" + (f", volume {series.volume}" if series.volume else "")


@dataclass(frozen=True, eq=False)
class Cut:
    """One window, cut from its scan.

    Attributes:
        scan: the scan's name.
        digest: the SHA-256 of the scan as the network sees it.
        window: where it starts.
        patch: float32 (1, C, *patch).
        truth: the true labels (*patch), 0 around a scan that is smaller than the patch, where there are any.
    """

    scan: str
    digest: str
    window: Window
    patch: Patches
    truth: Labels | None = None


class TiledScan:
    """A scan as the network sees it, and where its windows lie.

    Attributes:
        name: the source's.
        tiling: of its image.
    """

    def __init__(self, source: ScanSource, spec: ModelSpec) -> None:
        volume = source.read()
        prepared = prepare(volume, spec)
        self.name, self._spec, self._image = source.name, spec, prepared.image
        self._labels = None if source.truth is None else labels_on_image(source.truth(volume), prepared)
        self.tiling = Tiling(self._image.shape[1:], spec.patch, OVERLAP)

    @cached_property
    def digest(self) -> str:
        """A SHA-256 of the image: the same for one scan in two files, or in two formats."""
        hashed = hashlib.sha256(repr(self._image.shape).encode())
        hashed.update(np.ascontiguousarray(self._image).data)
        return hashed.hexdigest()

    def cut(self, windows: Iterable[Window]) -> list[Cut]:
        """These windows, cut out."""
        return [Cut(self.name, self.digest, one, self._patch(one), self._truth(one)) for one in windows]

    @cached_property
    def _background(self) -> Floats:
        return self.tiling.background(self._image)

    def _patch(self, window: Window) -> Patches:
        patch = np.empty((self._spec.in_channels, *self.tiling.patch), np.float32)
        patch[...] = self._background
        self.tiling.read(self._image, window, patch)
        return patch.reshape(1, self._spec.in_channels, *self._spec.patch)

    def _truth(self, window: Window) -> Labels | None:
        if self._labels is None:
            return None
        patch = np.zeros(self.tiling.patch, self._labels.dtype)
        patch[self.tiling.inside] = self._labels[self.tiling.area(window)]
        return patch.reshape(self._spec.patch)


class Windows(Sequence[Patches]):
    """The patches (1, C, *patch) of chosen windows.

    Args:
        cuts: the windows, in the order that they are gone through.
    """

    def __init__(self, cuts: Sequence[Cut]) -> None:
        self._cuts = tuple(cuts)

    @cached_property
    def digest(self) -> str:
        """A SHA-256 of all patches and their true labels."""
        hashed = hashlib.sha256()
        for cut in self._cuts:
            for part in (cut.patch, cut.truth):
                hashed.update(b"" if part is None else repr((part.shape, part.dtype.str)).encode() + part.tobytes())
        return hashed.hexdigest()

    @property
    def places(self) -> set[tuple[str, Window]]:
        """The scan's digest and the window, of each."""
        return {(cut.digest, cut.window) for cut in self._cuts}

    @property
    def scans(self) -> set[str]:
        """The digests of the scans that the windows are of."""
        return {cut.digest for cut in self._cuts}

    @property
    def has_truth(self) -> bool:
        """Whether every window comes with its true labels."""
        return all(cut.truth is not None for cut in self._cuts)

    def report(self) -> dict[str, int]:
        """Windows per scan, by name."""
        names = [cut.scan for cut in self._cuts]
        return {name: names.count(name) for name in dict.fromkeys(names)}

    def truth(self, index: int) -> Labels:
        """The true labels (*patch) of a window; only where there are any."""
        labels = self._cuts[index].truth
        assert labels is not None
        return labels

    def __len__(self) -> int:
        return len(self._cuts)

    def __getitem__(self, index: Any) -> Any:
        return Windows(self._cuts[index]) if isinstance(index, slice) else self._cuts[index].patch


def random_scan(spec: ModelSpec, seed: int = 0) -> ScanSource:
    """Noise of four patches a side, in the spec's intensity window: to try a calibration, never to deploy one."""
    rng = np.random.default_rng(seed)
    shape = [4 * size for size in spec.patch] if spec.dims == 3 else [12, *spec.patch]
    axes = spec.axes if spec.dims == 3 else "D" + spec.axes
    order = [axes.index(axis) for axis in "DHW"]
    values = rng.random((spec.in_channels, *(shape[axis] for axis in order)), np.float32)
    if (span := spec.intensity.span) is not None:
        values = values * (span[1] - span[0]) + span[0]
    spacing = (1.0, 1.0, 1.0) if spec.spacing is None else (*(1.0,) * (3 - spec.dims), *spec.spacing)
    affine = np.eye(4)
    for column, axis in enumerate((2, 1, 0)):  # voxel axes z, y, x onto x, y, z in mm
        affine[:3, column] = 0.0
        affine[axis, column] = spacing[column]
    volume = Volume(values[0] if spec.in_channels == 1 else values, affine)
    return ScanSource("random", lambda: volume)


def answers(session: Session, patches: Iterator[Patches]) -> Iterator[Patches]:
    """Logits (K, *patch) of patches (1, C, *patch), whatever the session's batch."""
    for patch in patches:
        yield session.run_any(patch)[0]
