"""Checkpoint or graph -> a faster artifact of it that agrees, and the fastest one on this host."""

from medattn_edge.compile.compilation import compile_artifact
from medattn_edge.compile.graphs import PLAIN, GivenGraph, Graphs, RewrittenGraphs
from medattn_edge.compile.tuning import BETTER, DURATION_S, tune

__all__ = ["BETTER", "DURATION_S", "PLAIN", "GivenGraph", "Graphs", "RewrittenGraphs", "compile_artifact", "tune"]
