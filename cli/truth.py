"""True labels from a file, in the network's own numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medattn_edge.errors import ScanError, UsageError

if TYPE_CHECKING:
    from medattn_edge.volume import Volume


def parse_values(texts: Sequence[str]) -> dict[str, list[int]]:
    """`right_lung=5`, `lungs=5,6`: the values that a label has in a file; raises UsageError."""
    values = {}
    for text in texts:
        name, equals, numbers = text.partition("=")
        if not equals or not all(number.isdigit() for number in numbers.split(",")):
            raise UsageError(
                f"the label value {text!r} cannot be read",
                expected="NAME=VALUE[,VALUE...]",
                hint="--label-value right_lung=5",
            )
        values[name] = [int(number) for number in numbers.split(",")]
    return values


def true_labels(path: Path, scan: Volume, names: Sequence[str], values: Mapping[str, Sequence[int]]) -> Volume:
    """The labels of a file (D, H, W) on a scan's grid, numbered as `names`; 0 for every other value.

    A name that `values` does not have keeps its own number. Raises UsageError for a name that is not known, ScanError
    when the file has none of the labels, and what `read_labels` and Volume.like raise.
    """
    import numpy as np

    from medattn_edge.io import read_labels

    unknown = sorted(set(values) - set(names))
    if unknown:
        raise UsageError(
            f"--label-value names {', '.join(unknown)}",
            expected=f"some of {', '.join(names[1:])}",
            hint=f"--label-value {names[1]}=1",
        )
    found = read_labels(path).like(scan)
    truth = np.zeros(found.shape, np.uint16)
    for value, name in enumerate(names[1:], start=1):
        truth[np.isin(found.voxels, values.get(name, [value]))] = value
    if not truth.any():
        raise ScanError(
            f"{path} has none of the network's labels",
            expected=", ".join(f"{name}={value}" for value, name in enumerate(names) if value),
            hint="--label-value NAME=VALUE for labels with other numbers",
        )
    return found.with_voxels(truth)
