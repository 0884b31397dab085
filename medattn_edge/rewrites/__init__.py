"""Network -> the same function, cheaper. One file per theme, with its records in REWRITES."""

from __future__ import annotations

from medattn_edge.rewrites.defaults import defaults
from medattn_edge.rewrites.plan import (
    ALWAYS_GOOD,
    RewriteStep,
    Rewritten,
    RewrittenNetwork,
    changed,
    rewrite,
    rewrite_network,
    rewrites,
)

__all__ = [
    "ALWAYS_GOOD",
    "RewriteStep",
    "Rewritten",
    "RewrittenNetwork",
    "changed",
    "defaults",
    "rewrite",
    "rewrite_network",
    "rewrites",
]
