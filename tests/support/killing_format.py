"""A package with a file format, installed into a folder: scans of noise, of which some end their reader's process.

What a decoder in C does with a damaged file. NAME.noise holds one word and a seed: `scan 7` is read as noise of that
seed, `SEGV 7` and `KILL 7` end the process by that signal, `once 7` the first process that reads it and no other,
`hang 7` never comes back, and after `full 7` its reader's process can write no file of more than 1,000 bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from medattn_edge.registry import records

CODE = """
import ctypes, os, resource, signal, time
from pathlib import Path
import numpy as np
from medattn_edge.io.format import Format
from medattn_edge.volume import Volume

def read(path):
    word, seed = Path(path).read_text().split()
    once = Path(str(path) + ".read")
    if word == "SEGV":
        ctypes.string_at(0)
    if word == "KILL" or (word == "once" and not once.exists()):
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    while word == "hang":
        time.sleep(60)
    if word == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    voxels = np.random.default_rng(int(seed)).random((3, 40, 36)).astype(np.float32)
    return Volume(voxels, np.diag([1.0, 1.0, 4.0, 1.0])[:, [2, 1, 0, 3]])

NOISE = Format(name="noise", suffixes=(".noise",), extra="", packages=(), read=read, write_labels=None, write_maps=None)
"""


@contextmanager
def installed_in(folder: Path) -> Iterator[None]:
    """Install the format there, for this process and the children that it starts."""
    (folder / "noise_format.py").write_text(CODE)
    metadata = folder / "noise_format-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: noise-format\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[medattn_edge.formats]\nnoise = noise_format:NOISE\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        records.cache_clear()
        yield
    records.cache_clear()
    sys.modules.pop("noise_format", None)


def noise(path: Path, seed: int, word: str = "scan") -> Path:
    """A scan of it."""
    path.write_text(f"{word} {seed}")
    return path
