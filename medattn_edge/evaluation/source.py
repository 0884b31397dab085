"""A source as the reference of a comparison or a measurement; torch is needed for none that is an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medattn_edge.artifact import Manifest, manifest_path
from medattn_edge.errors import MissingDependency, UsageError

if TYPE_CHECKING:
    from medattn_edge.foreign import SourceOptions, SourceReference


def read_source(
    path: Path, options: SourceOptions | None, candidate: Manifest | None, batch: int | None = None
) -> SourceReference | None:
    """The reference, where it is a source that a session does not open by itself; None for any other.

    Args:
        path: of the reference.
        options: what was said of it.
        candidate: the manifest of what is held to it.
        batch: patches of one run of a network from elsewhere; None for its own number.

    Raises:
        UsageError: for options of an artifact, and as `SourceReference.read` does.
    """
    if manifest_path(path).is_file():
        if options is not None and options.given:
            raise UsageError(
                f"options for reading {path.name}, which is an artifact",
                expected="them for a source: a checkpoint, a network from elsewhere, or a folder",
                hint="leave them out: its manifest says everything",
            )
        return None
    try:
        from medattn_edge.foreign import SourceOptions as Said
        from medattn_edge.foreign import SourceReference as Read
        from medattn_edge.foreign import is_source
    except ImportError as error:
        raise MissingDependency.of_extra(str(error.name), "export") from error
    said = options or Said()
    if not is_source(path, said):
        return None
    if candidate is None:
        return Read.read(path, said, None, (), batch)
    return Read.read(path, said, candidate.reference_spec, (*candidate.lineage, candidate.sha256), batch)
