"""Sample patches: real network inputs, to verify an export or to calibrate it."""

from __future__ import annotations

import numpy as np

from medattn_edge.errors import UsageError
from medattn_edge.inference.preprocess import prepare
from medattn_edge.inference.resample import Floats
from medattn_edge.inference.tiling import EVERY_CHANNEL, Tiling
from medattn_edge.spec import ModelSpec
from medattn_edge.volume import Volume


def sample_patches(volume: Volume, spec: ModelSpec, count: int, seed: int = 0) -> Floats:
    """At most `count` network inputs float32 (n, C, *patch) from a scan, prepared and tiled as `segment` does it.

    The windows (overlap 0.5), in their order, are cut into `count` equal runs, so that the whole scan is seen; of each
    one is taken from the better half by standard deviation, so that air is not; the seed chooses which. The same
    arguments give the same patches; n is less than `count` only when the scan has fewer windows.
    Raises UsageError for a count below 1, ScanError as `prepare` does.
    """
    if count < 1:
        raise UsageError(f"{count} patches", expected="at least 1", hint="--samples 8")
    image = prepare(volume, spec).image
    tiling = Tiling(image.shape[1:], spec.patch, 0.5)
    # In double precision and over the image only: the margins of a small scan say nothing.
    contrast = np.array([image[EVERY_CHANNEL + tiling.area(window)].std(dtype=np.float64) for window in tiling.windows])
    rng = np.random.default_rng(seed)
    runs = np.array_split(np.arange(len(contrast)), min(count, len(contrast)))
    patches = np.empty((len(runs), spec.in_channels, *tiling.patch), np.float32)
    patches[...] = tiling.background(image)
    for patch, run in zip(patches, runs, strict=True):
        best = run[np.argsort(-contrast[run], kind="stable")][: (len(run) + 1) // 2]
        tiling.read(image, tiling.windows[int(rng.choice(best))], patch)
    return patches.reshape(len(runs), spec.in_channels, *spec.patch)
