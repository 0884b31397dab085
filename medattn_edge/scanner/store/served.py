"""The largest version of each release that a node has served: an older one is an attack, or a mistake, and refused."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medattn_edge.errors import IntegrityError, quoted
from medattn_edge.release import VerifiedRelease
from medattn_edge.scanner.store.disk import write_durably
from medattn_edge.scanner.store.layout import Layout

_SCHEMA = 1


def check_not_older(root: Path, release: VerifiedRelease) -> None:
    """Hold a release to what was served from this root before. Nothing is changed.

    Raises:
        IntegrityError: when a larger version of its name was served, or its own version with other contents; when the
            record cannot be read.
    """
    known = _known(root).get(release.manifest.name)
    if known is None:
        return
    version, digest = known["version"], known["manifest_sha256"]
    again = "to go back on purpose, write the old artifacts as a new release: medattn-edge release write ... "
    if release.manifest.version < version:
        raise IntegrityError(
            f"the release {release.title} is older than {release.manifest.name} {version}, which this node has served",
            expected=f"version {version} or a larger one",
            hint=f"{again}--release-version {version + 1}",
        )
    if release.manifest.version == version and release.manifest_sha256 != digest:
        raise IntegrityError(
            f"the release {release.title} has other contents than the one of this version that this node has served",
            expected=f"the manifest {digest[:16]}..., or a larger version",
            hint=f"write it with a number of its own: medattn-edge release write ... --release-version {version + 1}",
        )


def record_served(root: Path, releases: Iterable[VerifiedRelease]) -> None:
    """Write down, durably, what is served from now on. Raises OutputError, and as `check_not_older` does."""
    before = _known(root)
    after = dict(before)
    for release in releases:
        check_not_older(root, release)
        after[release.manifest.name] = {
            "version": release.manifest.version,
            "manifest_sha256": release.manifest_sha256,
        }
    if after != before:
        data = json.dumps({"schema": _SCHEMA, "releases": after}, indent=1, sort_keys=True) + "\n"
        write_durably(Layout(root).releases, data.encode())


def _known(root: Path) -> dict[str, Any]:
    path = Layout(root).releases
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    try:
        values = json.loads(text)
        known: dict[str, Any] = values["releases"]
        whole = values["schema"] == _SCHEMA and all(
            type(one["version"]) is int and isinstance(one["manifest_sha256"], str) for one in known.values()
        )
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not whole:
        raise _damaged(path, "it is of another schema, or incomplete")
    return known


def _damaged(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"{path} cannot be read: {why}",
        expected="which versions this node has served",
        hint=f"restore it; or, once you know that the configuration names the right releases: rm {quoted(path)}",
    )
