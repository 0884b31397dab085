"""Bisect: in which layer a candidate first leaves its reference, by sub-graphs of one layer each."""

from medattn_edge.evaluation.bisect.advice import Advice, Attempt, advise, attempt
from medattn_edge.evaluation.bisect.bisection import Bisection, BisectSettings, bisect
from medattn_edge.evaluation.bisect.figures import LayerFigures
from medattn_edge.evaluation.bisect.layers import CutLayer

__all__ = [
    "Advice",
    "Attempt",
    "BisectSettings",
    "Bisection",
    "CutLayer",
    "LayerFigures",
    "advise",
    "attempt",
    "bisect",
]
