"""Checkpoint or graph -> the fastest artifact of it on this host that agrees."""

from medattn_edge.compile.graphs import PLAIN, GivenGraph, Graphs, RewrittenGraphs
from medattn_edge.compile.tuning import BETTER, DURATION_S, tune

__all__ = ["BETTER", "DURATION_S", "PLAIN", "GivenGraph", "Graphs", "RewrittenGraphs", "tune"]
