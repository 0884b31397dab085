"""Network -> the same function, cheaper. One REWRITE record per file."""

from __future__ import annotations

from medattn_edge.rewrites.defaults import defaults
from medattn_edge.rewrites.plan import ALWAYS_GOOD, Applied, Fused, changed, fuse, rewrites

__all__ = ["ALWAYS_GOOD", "Applied", "Fused", "changed", "defaults", "fuse", "rewrites"]
