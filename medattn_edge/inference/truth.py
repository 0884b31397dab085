"""True labels from a file, in the network's own numbers or bits, and what the file has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medattn_edge.errors import ScanError, UsageError
from medattn_edge.inference.label_audit import LabelAudit
from medattn_edge.io import read_regions
from medattn_edge.io.scan import read_labels_of
from medattn_edge.labels import Meaning
from medattn_edge.volume import Volume

LabelValues = Mapping[str, Sequence[int]]


@dataclass(frozen=True, eq=False)
class Truth:
    """True labels of a scan.

    Attributes:
        labels: (D, H, W) on the scan's grid, in the network's numbers or bits; 0 for values of no label.
        audit: of the file.
    """

    labels: Volume
    audit: LabelAudit


def parse_label_values(texts: Sequence[str]) -> dict[str, list[int]]:
    """The values that a label has in a file, from `right_lung=5` or `lungs=5,6`.

    Args:
        texts: one `NAME=VALUE[,VALUE...]` per label.

    Returns:
        Name -> values, as `read_true_labels` takes them.

    Raises:
        UsageError: a text cannot be read, or names a label a second time.
    """
    values: dict[str, list[int]] = {}
    for text in texts:
        name, equals, numbers = text.partition("=")
        if not equals or not all(number.isascii() and number.isdigit() for number in numbers.split(",")):
            raise UsageError(
                f"the label value {text!r} cannot be read",
                expected="NAME=VALUE[,VALUE...]",
                hint="--label-value right_lung=5",
            )
        if name in values:
            raise UsageError(
                f"the label value of {name} is given twice",
                expected="all values of a label in one option",
                hint=f"--label-value {name}={','.join(map(str, values[name]))},{numbers}",
            )
        values[name] = [int(number) for number in numbers.split(",")]
    return values


def values_of_labels(values: LabelValues, meaning: Meaning) -> dict[str, tuple[int, ...]]:
    """The values of every label of a network in a file.

    Args:
        values: name -> values in the file; a label that is not in it has its own number there. Of regions that may
            overlap only those count that are given, and several may have one value.
        meaning: of the network's labels; a label's number is its index.

    Returns:
        Name -> values, for every label but the background.

    Raises:
        UsageError: a name is not one of the labels, or two labels that exclude each other would have one value.
    """
    names = meaning.structures
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise UsageError(
            f"--label-value names {', '.join(unknown)}",
            expected=f"some of {', '.join(names)}",
            hint=f"--label-value {names[0]}=1",
        )
    if meaning.overlapping:
        return {name: tuple(numbers) for name, numbers in values.items()}
    complete = {name: tuple(values.get(name, (number,))) for number, name in enumerate(names, start=1)}
    owners: dict[int, str] = {}
    for name, numbers in complete.items():
        for number in numbers:
            if owners.setdefault(number, name) != name:
                raise UsageError(
                    f"the label value {number} stands for both {owners[number]} and {name}",
                    expected="different values; a label without --label-value has its own number",
                    hint=" ".join(f"--label-value {one}=VALUE" for one in (owners[number], name)),
                )
    return complete


def read_true_labels(path: Path, scan: Volume, meaning: Meaning, values: LabelValues) -> Volume:
    """The labels alone of `read_truth`, which says the rest."""
    return read_truth(path, scan, meaning, values).labels


def read_truth(path: Path, scan: Volume, meaning: Meaning, values: LabelValues) -> Truth:
    """The labels of a file on a scan's grid, in the network's numbers, or in its bits for regions that may overlap.

    Args:
        path: the file: labels (D, H, W), on the scan's grid or on one that differs in orientation only. Regions come
            with a map for each, which the file names or `values` numbers from 1, or from a label map whose values
            `values` gives for each of them.
        scan: the volume that the labels are of.
        meaning: of the network's labels.
        values: name -> its values in the file; a label that is not in it has its own number there.

    Returns:
        Unsigned labels (D, H, W) on the scan's grid; 0 for every value of the file that is no label of the network;
        and the audit of the file.

    Raises:
        UsageError: see `values_of_labels`; also for a file that does not say which region is where.
        ScanError: the file has none of the labels, or cannot be used.
        GeometryError: the labels do not lie on the scan.
    """
    complete = values_of_labels(values, meaning)
    if meaning.overlapping:
        return _true_regions(path, scan, meaning, complete)
    path = Path(path)
    labels = read_labels_of(path, scan)
    truth = np.zeros(labels.shape, np.uint16)
    for value, name in enumerate(meaning.structures, start=1):
        truth[np.isin(labels.voxels, complete[name])] = value
    return _some(labels.with_voxels(truth), LabelAudit.of(path.name, labels, complete))


def _some(labels: Volume, audit: LabelAudit) -> Truth:
    """Raise ScanError for labels of which nothing is left."""
    if not labels.voxels.any():
        names = tuple(dict.fromkeys(name for row in audit.counts for name in row.labels))
        raise ScanError(
            f"{audit.text}, none of which is one of the network's labels",
            expected=f"a voxel of {audit.mapping}",
            hint=audit.hint(names),
        )
    return Truth(labels, audit)


def _true_regions(path: Path, scan: Volume, meaning: Meaning, values: dict[str, tuple[int, ...]]) -> Truth:
    """Regions (D, H, W), a bit for each, from maps or from a label map."""
    regions = read_regions(path)
    if regions is None:
        labels = read_labels_of(path, scan)
        _check_all_given(f"{path} is a label map, which does not say where regions overlap", meaning, values)
        masks = {name: np.isin(labels.voxels, values[name]) for name in meaning.structures}
        audit = LabelAudit.of(path.name, labels, values)
    else:
        labels, names = regions[0].like(scan), regions[1]
        maps = _maps(path, names, meaning, values)
        masks = {name: np.asarray(labels.voxels[list(of)].any(axis=0), bool) for name, of in maps.items()}
        audit = LabelAudit.of_maps(path.name, labels, {name: [one + 1 for one in of] for name, of in maps.items()})
    truth = np.zeros(labels.shape, meaning.label_type)
    for name, mask in masks.items():
        meaning.put(truth, name, mask)
    return _some(labels.with_voxels(truth), audit)


def _maps(
    path: Path, names: Sequence[str], meaning: Meaning, values: dict[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """The maps, from 0, that make up each region."""
    if values or not any(names):
        _check_all_given(f"{path} has {len(names)} maps, {'' if any(names) else 'none with a name'}", meaning, values)
        beyond = sorted({number for numbers in values.values() for number in numbers} - set(range(1, len(names) + 1)))
        if beyond:
            raise UsageError(
                f"--label-value names map {beyond[0]} of {path}",
                expected=f"1 to {len(names)}",
                hint=_all_given(meaning),
            )
        return {name: tuple(number - 1 for number in values[name]) for name in meaning.structures}
    missing = [name for name in meaning.structures if name not in names]
    if missing:
        raise ScanError(
            f"{path} has no map of {', '.join(missing)}, but {', '.join(filter(None, names))}",
            expected=f"a map of each of {', '.join(meaning.structures)}",
            hint=_all_given(meaning) + " gives the maps by number",
        )
    return {name: (names.index(name),) for name in meaning.structures}


def _check_all_given(found: str, meaning: Meaning, values: dict[str, tuple[int, ...]]) -> None:
    if set(values) != set(meaning.structures):
        raise UsageError(
            found.rstrip(", "),
            expected=f"the values of each of {', '.join(meaning.structures)}",
            hint=_all_given(meaning),
        )


def _all_given(meaning: Meaning) -> str:
    return " ".join(f"--label-value {name}={number}" for number, name in enumerate(meaning.structures, start=1))
