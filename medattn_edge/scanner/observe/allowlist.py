"""The words that a node's log may hold: names of its configuration, and codes of the code."""

from __future__ import annotations

from medattn_edge.reasons import SERIES_REASONS
from medattn_edge.scanner.config.node_config import NodeConfig
from medattn_edge.scanner.deliver import send
from medattn_edge.scanner.reasons import REASONS as NODE_REASONS
from medattn_edge.scanner.receive import c_store
from medattn_edge.scanner.work.tasks import REASONS as WORKER_REASONS

# The codes of errors that refuse a series: medattn_edge.errors.InputError and below.
_ERRORS = ("input", "scan", "geometry", "shape", "checkpoint")
_PARTS = ("watching", "delivering", "segmenting")


def words_of(config: NodeConfig) -> tuple[str, ...]:
    """All of them."""
    reasons = (*SERIES_REASONS, *NODE_REASONS, *WORKER_REASONS, *c_store.WORDS, *send.WORDS)
    return (*config.words(), *reasons, *_ERRORS, *_PARTS)
