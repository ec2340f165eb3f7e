"""Medians with confidence intervals that assume nothing about the distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Interval", "median", "median_interval"]


class Interval(NamedTuple):
    """A median and the bounds of its confidence interval."""

    median: float
    low: float
    high: float


def median(values: Sequence[float]) -> float:
    """The median. Raises ValueError when there are no values."""
    if not values:
        raise ValueError("median of no values")
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The median with the order-statistics interval: the k-th smallest and k-th largest value.

    The number of values below the true median is binomial with p = 1/2, so k is the largest rank
    whose two tails together have at most ``1 - confidence``; with fewer than six values no rank
    reaches 95% and the bounds are the extremes. Raises ValueError when there are no values.
    """
    ordered = sorted(values)
    n = len(ordered)
    tail, rank = 0.0, 0
    for k in range((n + 1) // 2):
        tail += math.comb(n, k) / 2**n
        if 2 * tail > 1 - confidence:
            break
        rank = k + 1
    rank = max(rank, 1)
    return Interval(median(ordered), ordered[rank - 1], ordered[n - rank])
