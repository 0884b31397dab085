"""Several scans for one network: `t1.nii.gz+t1ce.nii.gz`, or `t1ce=b.nii.gz+t1=a.nii.gz`, in any order, by name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from medattn_edge.errors import ScanError, UsageError, quoted
from medattn_edge.io.grids import gather
from medattn_edge.io.scan import Scan
from medattn_edge.spec import ModelSpec
from medattn_edge.volume import Volume

if TYPE_CHECKING:
    from medattn_edge.io.dicom.series import Series

AnyScan = Path | str | Scan
JOINT = "+"
_DIGITS = 16  # of a hash in an identity


class ChannelScan(Scan):
    """A scan whose channels lie in several files or series, on one grid.

    Labels are on the grid of the first, and a DICOM segmentation refers to the first.

    Attributes:
        scans: of each channel, in the order that was given.
        called: what each is called in what is said of it; empty for paths, which have names.
        given_parts: the paths as texts, each with its channel's name where it has one.
        resample_to_first: whether another grid is resampled to the first's.
    """

    def __init__(
        self,
        parts: Sequence[str] | Mapping[str, Scan],
        pixel_spacing: Sequence[float] = (),
        *,
        resample_to_first: bool = False,
    ) -> None:
        """Nothing but the paths' kinds is looked at.

        Args:
            parts: of each channel the path, or NAME=PATH with the name that the network has for it; or scans, in the
                order of the network's channels, by what each is called in what is said of it.
            pixel_spacing: as for Scan, of paths.
            resample_to_first: a scan on another grid is resampled linearly to the first's instead of refused.

        Raises:
            UsageError: when some parts have a name and others not, or one comes twice.
        """
        self.resample_to_first, self.called = resample_to_first, tuple(parts) if isinstance(parts, Mapping) else ()
        if isinstance(parts, Mapping):
            named = [("", scan.path) for scan in parts.values()]
            self.scans, parts = tuple(parts.values()), list(parts)
        else:
            named = [_named(part) for part in parts]
            self.scans = tuple(Scan(path, "", pixel_spacing) for _, path in named)
        self._names = tuple(name for name, _ in named)
        if any(self._names) and (not all(self._names) or len(set(self._names)) < len(self._names)):
            raise UsageError(
                f"the channels {', '.join(parts)}",
                expected="a name for each of them, each once, or none at all",
                hint=quoted(JOINT.join(f"{name or 'NAME'}={path}" for name, path in named)),
            )
        if len({path.resolve() for path in self.paths}) < len(self.paths):
            raise UsageError(
                "a scan comes twice", expected="another scan for each channel", hint=quoted(JOINT.join(parts))
            )
        self.given_parts = tuple(f"{name}={path}" if name else str(path) for name, path in named)
        super().__init__(JOINT.join(str(path) for path in self.paths), "", pixel_spacing)
        self.is_dicom = self.scans[0].is_dicom

    @property
    def paths(self) -> tuple[Path, ...]:
        """The path of each channel, in the order that was given."""
        return tuple(scan.path for scan in self.scans)

    @cached_property
    def series(self) -> Series | None:
        """The first channel's series; raises as `Scan.series`."""
        return self.scans[0].series

    @property
    def all_series(self) -> tuple[Series, ...]:
        """Of every channel that is DICOM; raises as `Scan.series`."""
        return tuple(series for scan in self.scans for series in scan.all_series)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of all channels; raises as `Scan.series`."""
        return tuple(file for scan in self.scans for file in scan.files)

    def read(self) -> Volume:
        """The channels (C, D, H, W) in the order that was given, on the first one's grid.

        Raises:
            RefusedSeries: for series of DICOM of different patients, or in different coordinates.
            UsageError, ScanError, GeometryError, MissingDependency: as `Scan.read` and `gather` do.
        """
        if self.is_dicom:
            self._check_one_patient()
        gathered = gather([scan.read() for scan in self.scans], self._shown(), self.resample_to_first)
        self._notes = gathered.notes
        return gathered.volume

    def _check_one_patient(self) -> None:
        from medattn_edge.io.dicom.patient import check_one_patient

        found = [(scan.series, name) for scan, name in zip(self.scans, self._shown(), strict=True)]
        series = [(one, name) for one, name in found if one is not None]
        check_one_patient([one for one, _ in series], [name for _, name in series])

    def _shown(self) -> Sequence[str]:
        """What each scan is called in what is said of it."""
        names = [path.name for path in self.paths]
        unique = len(set(names)) == len(names)
        return self.called or (names if unique else [str(path) for path in self.paths])

    def identity(self, spec: ModelSpec) -> str:
        """`channels=` and a hash of what lies in each channel, since a result refers to the first one only."""
        digest = hashlib.sha256()
        for name, path in self._assigned(spec):
            scan = self.scans[self.paths.index(path)]
            texts = (
                [hashlib.sha256(path.read_bytes()).hexdigest()] if scan.series is None else _identifiers(scan.series)
            )
            digest.update("\0".join([name, *texts, ""]).encode())
        return f"channels={digest.hexdigest()[:_DIGITS]}" + (" resampled=to_first" if self.resample_to_first else "")

    def notes(self) -> tuple[str, ...]:
        """What people should know of each channel, and what was resampled by the last `read`."""
        own = [f"{scan.name}: {note}" for scan in self.scans for note in scan.notes()]
        return (*own, *self._notes)

    @property
    def name(self) -> str:
        """The channels' names, in the order that was given."""
        return JOINT.join(scan.name for scan in self.scans)

    def described(self, spec: ModelSpec) -> str:
        """Each channel with the name that the network has for it, and whether scans may have been resampled."""
        parts = (f"{name}={path.resolve().name}" for name, path in self._assigned(spec))
        return JOINT.join(parts) + (", resampled to the first" if self.resample_to_first else "")

    def assignment(self, spec: ModelSpec) -> tuple[str, ...]:
        """Which scan becomes which channel, a line each.

        Raises:
            UsageError: for another number of scans than the network has channels, for names that it does not have, and
                for a file whose own name says another channel.
        """
        return tuple(f"{name} <- {path.resolve().name}" for name, path in self._assigned(spec))

    def arranged(self, volume: Volume, spec: ModelSpec) -> Volume:
        """The channels in the network's order; raises as `assignment`."""
        order = [self.paths.index(path) for _, path in self._assigned(spec)]
        if order == sorted(order):
            return volume
        return volume.with_voxels(volume.voxels[order])

    def _assigned(self, spec: ModelSpec) -> list[tuple[str, Path]]:
        """The network's channels in its order, and the path for each."""
        known = spec.channels or tuple(f"channel {number}" for number in range(1, spec.in_channels + 1))
        if len(self.paths) != spec.in_channels:
            raise UsageError(
                f"{len(self.paths)} scans for a network of {spec.in_channels} channel(s): {', '.join(known)}",
                expected="one scan for each of these channels, or one file with all of them",
                hint=JOINT.join(f"{name}=SCAN" for name in spec.channels) or JOINT.join(["SCAN"] * spec.in_channels),
            )
        if not any(self._names):
            if not self.called:
                _check_names(self.paths, spec.channels)
            return list(zip(known, self.paths, strict=True))
        if set(self._names) != set(spec.channels):
            raise UsageError(
                f"scans for the channels {', '.join(self._names)}",
                expected=f"scans for {', '.join(spec.channels) or 'channels without names, in their order'}",
                hint=JOINT.join(f"{name}=SCAN" for name in spec.channels) or "leave the names out",
            )
        return [(name, self.paths[self._names.index(name)]) for name in spec.channels]


def as_scan(
    given: AnyScan | Sequence[Path | str],
    series: str = "",
    pixel_spacing: Sequence[float] = (),
    *,
    resample_to_first: bool = False,
    geometry: str = "",
    volume: int = 0,
) -> Scan:
    """The scan that a path, or several, mean: of one channel each where there are several.

    Args:
        given: a path as Scan takes it; paths joined by `+`, or a sequence of them, each with or without NAME= before
            it. A path that exists is taken as it is, whatever is in its name.
        series: as for Scan, of a single path.
        pixel_spacing: as for Scan.
        resample_to_first: as for ChannelScan.
        geometry: as for Scan, of a single path.
        volume: as for Scan, of a single path.

    Raises:
        UsageError: as Scan and ChannelScan do, and for a choice that needs several scans, or one.
    """
    if isinstance(given, Scan):
        return given
    texts = [given] if isinstance(given, Path | str) else given
    parts = [part for text in texts for part in _split(str(text))]
    if len(parts) > 1 or (parts and _named(parts[0])[0]):
        given_for_one = {"--series": series, "--geometry": geometry, "--volume": volume}
        if wrong := [option for option, value in given_for_one.items() if value]:
            raise UsageError(
                f"{wrong[0]} with {len(parts)} scans",
                expected="a folder or a file of its own for each channel",
                hint=f"leave {wrong[0]} out",
            )
        return ChannelScan(parts, pixel_spacing, resample_to_first=resample_to_first)
    if not parts:
        raise UsageError("no scan", expected="at least one", hint="SCAN.nii.gz")
    return Scan(parts[0], series, pixel_spacing, geometry=geometry, volume=volume)


def read_channels(paths: Sequence[Path | str], spec: ModelSpec, resample: bool = False) -> Volume:
    """The scans of one patient as one volume (C, D, H, W), the channels as a network wants them.

    Args:
        paths: one for each channel in the network's order, or NAME=PATH in any; or one file with all of them.
        spec: the network's.
        resample: bring a scan on another grid to the first's, linearly, instead of refusing it.

    Raises:
        UsageError: for another number of scans, unknown names, and files whose names say another order.
        ScanError: for scans that cannot be read, and for a file with another number of channels.
        GeometryError: for grids that differ.
        MissingDependency: as `read_volume` does.
    """
    volume = as_scan(paths, resample_to_first=resample).read_for(spec)
    if volume.channels != spec.in_channels:
        raise ScanError(
            f"{paths[0]} has {volume.channels} channel(s)",
            expected=f"{spec.in_channels} channel(s){': ' if spec.channels else ''}{', '.join(spec.channels)}",
            hint="give one scan for each channel",
        )
    return volume


def _identifiers(series: Series) -> list[str]:
    """What tells the voxels of a series from those of every other one."""
    instances = sorted({plane.sop_instance_uid for plane in series.frames})
    return [series.series_instance_uid, str(series.volume), *instances]


def _split(text: str) -> list[str]:
    """The paths that are joined in a text, when one of them is there; a path that is there is never split."""
    parts = text.split(JOINT)
    if len(parts) == 1 or Path(text).exists() or not all(parts):
        return [text]
    return parts if any(_named(part)[1].exists() for part in parts) else [text]


def _named(part: str) -> tuple[str, Path]:
    """(name, path) of NAME=PATH; an empty name for a path alone."""
    name, equals, path = part.partition("=")
    if not equals or not path or "/" in name or Path(part).exists():
        return "", Path(part)
    return name, Path(path)


def _check_names(paths: Sequence[Path], channels: Sequence[str]) -> None:
    """Refuse a file that would become one channel and says in its name that it is another."""
    if not channels:
        return
    words = [set(re.split(r"[^a-z0-9]+", path.resolve().name.lower())) for path in paths]
    for path, own, said in zip(paths, channels, words, strict=True):
        others = [name for name in channels if name.lower() in said]
        if others and own not in others:
            raise UsageError(
                f"{path.name} would be the channel {own}, and its name says {', '.join(others)}",
                expected=f"scans in the order {', '.join(channels)}",
                hint=quoted(JOINT.join(f"{name}={path}" for name, path in _suggested(paths, channels, words))),
            )


def _suggested(paths: Sequence[Path], channels: Sequence[str], words: Sequence[set[str]]) -> list[tuple[str, Path]]:
    """The order that the files' names say, where each says one; else the one that was given, to be said aloud."""
    by_name = {
        name: [path for path, said in zip(paths, words, strict=True) if name.lower() in said] for name in channels
    }
    if all(len(found) == 1 for found in by_name.values()):
        return [(name, found[0]) for name, found in by_name.items()]
    return list(zip(channels, paths, strict=True))
