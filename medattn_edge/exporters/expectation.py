"""The owner's own answer: read it, and find the open settings with which our network gives it."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.errors import InputError, ShapeError
from medattn_edge.models.checkpoint import Checkpoint
from medattn_edge.nearby import place_hint

Array = npt.NDArray[np.float32]
_MOST_BYTES = 8 << 30  # of one array: a case is a patch or a few, not a study
_MAKE = "np.savez('case.npz', image=x.numpy(), logits=network.eval()(x).detach().numpy())"


@dataclass(frozen=True)
class Expectation:
    """What the owner's code gave for some patches.

    Attributes:
        images: float32 (N, C, *patch), as the network takes them: axes, intensity and all.
        logits: float32 (N, K, *patch), before softmax or sigmoid.
        source: where it is from, for messages.
    """

    images: Array
    logits: Array
    source: str

    def __post_init__(self) -> None:
        """Raises ShapeError for arrays that do not belong together, InputError for what is not finite."""
        image, logits = self.images.shape, self.logits.shape
        dims = len(image) - 2
        if dims not in (2, 3) or len(logits) != len(image) or 0 in image or 0 in logits:
            raise ShapeError(
                f"{self.source} has an image of shape {image} and logits of shape {logits}",
                expected="(N, C, *patch) and (N, K, *patch), the patch with 2 or 3 axes",
                hint=_MAKE,
            )
        if image[0] != logits[0] or image[2:] != logits[2:]:
            raise ShapeError(
                f"{self.source} has an image of shape {image} and logits of shape {logits}",
                expected=f"logits of shape ({image[0]}, K, {', '.join(map(str, image[2:]))})",
                hint="save the logits at the size of the image, before any cropping or argmax",
            )
        for name, values in (("image", self.images), ("logits", self.logits)):
            if not np.isfinite(values).all():
                raise InputError(
                    f"{self.source} has values that are not finite in its {name}",
                    expected="finite numbers",
                    hint="compute it in float32, without autocast",
                )

    def check_network(self, checkpoint: Checkpoint) -> None:
        """Raise ShapeError unless C, K and the number of axes are the checkpoint's."""
        spec = checkpoint.spec
        found = (self.images.shape[1], self.logits.shape[1], self.images.ndim - 2)
        wanted = (spec.in_channels, spec.outputs, len(spec.patch))
        if found != wanted:
            raise ShapeError(
                f"{self.source} is of a {found[2]}-D network with {found[0]} input channels and {found[1]} outputs",
                expected=f"{wanted[2]}-D, {wanted[0]} input channels and {wanted[1]} outputs, as the checkpoint has",
                hint="give the case of this checkpoint",
            )


def read_expectation(path: Path, image: str = "image", logits: str = "logits") -> Expectation:
    """Read a case from an .npz file; nothing in it is unpickled.

    Args:
        path: written by numpy.savez or savez_compressed.
        image: name of the array of patches, (N, C, *patch); float32, or float64, which is rounded.
        logits: name of the array of the network's answers, (N, K, *patch).

    Raises:
        InputError: the file cannot be read, lacks a name, or holds something else than finite floating-point numbers.
        ShapeError: the arrays do not belong together.
    """
    path = Path(path)
    if not path.is_file():
        hint = _MAKE if path.exists() else place_hint(path, _MAKE)
        raise InputError(f"{path} is not a file", expected="an .npz file with an image and its logits", hint=hint)
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {name.removesuffix(".npy"): archive.getinfo(name).file_size for name in archive.namelist()}
        for name in (image, logits):
            if name not in sizes:
                raise InputError(
                    f"{path.name} has no array {name!r}",
                    expected=f"one of {', '.join(sorted(sizes)) or 'none: it is empty'}",
                    hint=_MAKE,
                )
            if sizes[name] > _MOST_BYTES:
                raise InputError(
                    f"the array {name!r} of {path.name} has {sizes[name] / 1e9:.1f} GB",
                    expected=f"at most {_MOST_BYTES / 1e9:.1f} GB",
                    hint="save one patch, or a few",
                )
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in (image, logits)}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"{path.name} cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            expected="an .npz file of plain arrays",
            hint=_MAKE,
        ) from error
    return Expectation(_floats(path, image, arrays[image]), _floats(path, logits, arrays[logits]), path.name)


def _floats(path: Path, name: str, values: npt.NDArray[Any]) -> Array:
    if values.dtype not in (np.float32, np.float64):
        half = values.dtype.kind == "f"
        raise InputError(
            f"the array {name!r} of {path.name} is {values.dtype}",
            expected="float32",
            hint="compute it in float32, without autocast"
            if half
            else "save the logits, before argmax"
            if name != "image"
            else "save the image as the network takes it, after the intensity is mapped",
        )
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
        return np.ascontiguousarray(values, dtype=np.float32)
