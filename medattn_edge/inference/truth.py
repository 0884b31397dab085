"""True labels from a file, in the network's own numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medattn_edge.errors import ScanError, UsageError
from medattn_edge.io import read_labels
from medattn_edge.volume import Volume

LabelValues = Mapping[str, Sequence[int]]


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


def values_of_labels(values: LabelValues, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The values of every label of a network in a file.

    Args:
        values: name -> values in the file; a label that is not in it has its own number there.
        names: the network's labels, background first; a label's number is its index.

    Returns:
        Name -> values, for every label but the background.

    Raises:
        UsageError: a name is not one of the labels, or two labels would have one value.
    """
    unknown = sorted(set(values) - set(names[1:]))
    if unknown:
        raise UsageError(
            f"--label-value names {', '.join(unknown)}",
            expected=f"some of {', '.join(names[1:])}",
            hint=f"--label-value {names[1]}=1",
        )
    complete = {name: tuple(values.get(name, (number,))) for number, name in enumerate(names[1:], start=1)}
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


def read_true_labels(path: Path, scan: Volume, names: Sequence[str], values: LabelValues) -> Volume:
    """The labels of a file on a scan's grid, in the network's numbers.

    Args:
        path: the file: labels (D, H, W), on the scan's grid or on one that differs in orientation only.
        scan: the volume that the labels are of.
        names: the network's labels, background first; a label's number is its index.
        values: name -> its values in the file; a label that is not in it has its own number there.

    Returns:
        uint16 labels (D, H, W) on the scan's grid; 0 for every value of the file that is no label of the network.

    Raises:
        UsageError: see `values_of_labels`.
        ScanError: the file has none of the labels, or cannot be used.
        GeometryError: the labels do not lie on the scan.
    """
    complete = values_of_labels(values, names)
    labels = read_labels(path).like(scan)
    truth = np.zeros(labels.shape, np.uint16)
    for value, name in enumerate(names[1:], start=1):
        truth[np.isin(labels.voxels, complete[name])] = value
    if not truth.any():
        raise ScanError(
            f"{path} has none of the network's labels",
            expected=", ".join(f"{name}={value}" for value, name in enumerate(names) if value),
            hint="--label-value NAME=VALUE for labels with other numbers",
        )
    return labels.with_voxels(truth)
