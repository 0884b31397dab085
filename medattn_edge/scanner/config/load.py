"""The configuration of a node, read from TOML and checked as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from medattn_edge.scanner.config.check import check
from medattn_edge.scanner.config.node_config import General, NodeConfig
from medattn_edge.scanner.config.sections import (
    RENAMED_KEYS,
    CommitmentPeer,
    Destination,
    Limits,
    Model,
    Receive,
    Releases,
    Status,
    StorageCommitment,
    Tls,
    Watch,
)
from medattn_edge.scanner.config.toml import Reader

_SECTIONS: Final = (
    *("node", "receive", "tls", "watch", "releases", "model", "destination", "limits", "status"),
    *("storage_commitment", "commitment_peer"),
)


def load_config(path: Path) -> NodeConfig:
    """Read a configuration. Nothing is changed.

    Args:
        path: of the TOML file; relative paths in it start at its folder.

    Raises:
        UsageError: for anything that could not work; it names the file and the key.
        IntegrityError: for an artifact that is not what its manifest says.
    """
    reader = Reader(path, RENAMED_KEYS)
    tables = reader.tables()
    reader.check_keys(tables, _SECTIONS, "section")
    general = reader.section(General, tables.get("node", {}), "[node]")
    config = NodeConfig(
        general.root,
        tuple(_several(reader, Model, tables, "model")),
        tuple(_several(reader, Destination, tables, "destination")),
        general.name,
        general.log_file,
        _optional(reader, Receive, tables, "receive"),
        _optional(reader, Tls, tables, "tls"),
        _optional(reader, Watch, tables, "watch"),
        reader.section(Limits, tables.get("limits", {}), "[limits]"),
        _status(reader, tables),
        reader.section(StorageCommitment, tables.get("storage_commitment", {}), "[storage_commitment]"),
        tuple(_several(reader, CommitmentPeer, tables, "commitment_peer")) if "commitment_peer" in tables else (),
        _optional(reader, Releases, tables, "releases"),
    )
    return check(config, reader)


def _several(reader: Reader, kind: type[Any], tables: dict[str, Any], name: str) -> Iterator[Any]:
    entries = tables.get(name, [])
    if not isinstance(entries, list) or not entries:
        raise reader.wrong(f"[[{name}]]", "is missing" if not entries else "is written as one section", f"[[{name}]]")
    for number, table in enumerate(entries, start=1):
        yield reader.section(kind, table, f"[[{name}]] {number}:")


def _optional(reader: Reader, kind: type[Any], tables: dict[str, Any], name: str) -> Any:
    return reader.section(kind, tables[name], f"[{name}]") if name in tables else None


def _status(reader: Reader, tables: dict[str, Any]) -> Status | None:
    status = reader.section(Status, tables.get("status", {}), "[status]")
    return status if status.enabled else None
