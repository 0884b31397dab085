"""Which versions of Python distributions are installed here."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata


def installed(distributions: Iterable[str]) -> dict[str, str]:
    """The versions of those distributions that are installed, without importing any."""
    versions = {}
    for name in distributions:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
