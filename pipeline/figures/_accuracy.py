"""Accuracy of one row, over its seeds."""

import math

from pipeline.core import intervals
from pipeline.core.metrics import Verdicts


def accuracy(vectors: list[Verdicts]) -> tuple[float, float, float]:
    """Mean over seeds, and its 95 % interval."""
    low, high = intervals.interval(vectors) or (math.nan, math.nan)  # of two seeds, none
    return sum(float(v.mean()) for v in vectors) / len(vectors), low, high
