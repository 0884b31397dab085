"""The configuration of a node as a record, and written as TOML with every value."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from medattn_edge.scanner.config.sections import (
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
from medattn_edge.scanner.config.toml import section_lines
from medattn_edge.scanner.store.records import Policy

__all__ = [
    "CommitmentPeer",
    "Destination",
    "Limits",
    "Model",
    "NodeConfig",
    "Receive",
    "Releases",
    "Status",
    "StorageCommitment",
    "Tls",
    "Watch",
    "reloadable",
]


@dataclass(frozen=True)
class General:
    """[node]."""

    root: Path
    name: str = "medattn-edge"
    log_file: Path | None = None


@dataclass(frozen=True)
class NodeConfig:
    """A node.

    Attributes:
        root: the folder of everything that it keeps.
        models: which artifact segments which series.
        destinations: where results go.
        name: shown on its page.
        log_file: none: stderr.
        receive: C-STORE; none: nothing listens.
        tls: a second listener.
        watch: a folder to take files from.
        limits: when and how often, and how much.
        status: the page; none: none.
        storage_commitment: whether the node promises to keep what it has.
        commitment_peers: who may ask for that.
        releases: whose signatures count; none: nobody's are asked for.
    """

    root: Path
    models: tuple[Model, ...]
    destinations: tuple[Destination, ...]
    name: str = General.name
    log_file: Path | None = None
    receive: Receive | None = None
    tls: Tls | None = None
    watch: Watch | None = None
    limits: Limits = field(default_factory=Limits)
    status: Status | None = field(default_factory=Status)
    storage_commitment: StorageCommitment = field(default_factory=StorageCommitment)
    commitment_peers: tuple[CommitmentPeer, ...] = ()
    releases: Releases | None = None

    def dump(self) -> str:
        """TOML with every value: it loads to the same configuration."""
        blocks = [("[node]", section_lines(General(self.root, self.name, self.log_file)))]
        for header, section in (("receive", self.receive), ("tls", self.tls), ("watch", self.watch)):
            if section is not None:
                blocks.append((f"[{header}]", section_lines(section)))
        if self.releases is not None:
            blocks.append(("[releases]", section_lines(self.releases)))
        blocks += [("[[model]]", section_lines(model)) for model in self.models]
        blocks += [("[[destination]]", section_lines(one)) for one in self.destinations]
        blocks.append(("[storage_commitment]", section_lines(self.storage_commitment)))
        blocks += [("[[commitment_peer]]", section_lines(one)) for one in self.commitment_peers]
        blocks.append(("[limits]", section_lines(self.limits)))
        blocks.append(("[status]", section_lines(self.status or Status(enabled=False))))
        return "\n\n".join("\n".join([header, *lines]) for header, lines in blocks) + "\n"

    def calling_ae(self, destination: Destination) -> str:
        """The title that the node calls itself when it delivers."""
        return destination.calling_ae_title or (self.receive or Receive).ae_title

    def policy(self) -> Policy:
        """What the store follows."""
        return self.limits.policy


def reloadable(old: NodeConfig, new: NodeConfig) -> tuple[str, ...]:
    """What differs and needs a restart; empty: all the rest may change while the node runs."""
    pairs = {
        "root": (old.root, new.root),
        "log_file": (old.log_file, new.log_file),
        "status": (_address(old), _address(new)),
    }
    return tuple(name for name, (before, after) in pairs.items() if before != after)


def _address(config: NodeConfig) -> tuple[str, int] | None:
    return None if config.status is None else (config.status.host, config.status.port)
