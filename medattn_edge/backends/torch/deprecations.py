"""Deprecations of others that we know of and have decided to live with."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def torchscript_is_deprecated() -> Iterator[None]:
    """torch marks TorchScript as deprecated but keeps it as a save format, which sites still install."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*", category=FutureWarning)
        yield
