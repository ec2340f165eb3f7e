"""Paired timing on a noisy machine, and errors between outputs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

__all__ = ["Difference", "Timing", "compare", "median_interval", "paired"]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Two ways of doing the same, timed in pairs."""

    before: float
    """Median seconds of the first."""
    after: float
    """Median seconds of the second."""
    speedup: float
    """Median over the pairs of before / after."""
    low: float
    high: float
    """95% interval of that median (by order statistics: no assumption about the noise)."""
    pairs: int

    @property
    def wins(self) -> bool:
        """Whether the second is faster beyond noise."""
        return self.low > 1.0

    @property
    def loses(self) -> bool:
        """Whether the second is slower beyond noise."""
        return self.high < 1.0


_MIN_PAIRS = 7
_MAX_PAIRS = 101
_SHORT_SAMPLE = 1e-3


def paired(
    before: Callable[[], object],
    after: Callable[[], object],
    seconds: float,
    switch: Callable[[bool], None] | None = None,
) -> Timing:
    """Time ``before`` and ``after`` alternately for about ``seconds``, at least 7 pairs.

    A drift of the machine hits both sides of a pair alike; the order within pairs alternates.
    ``switch(True)`` is called before each sample of ``after`` and ``switch(False)`` before each of
    ``before``, outside the timed part. Stops early when the verdict is clear.
    """

    def sample(second: bool, repeats: int) -> float:
        if switch is not None:
            switch(second)
        call = after if second else before
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats

    once = min(sample(False, 1), sample(True, 1))
    if once < _SHORT_SAMPLE:  # the first call may have taken longer than the others will
        once = min(sample(False, 1), sample(True, 1))
    repeats = max(1, min(1000, math.ceil(_SHORT_SAMPLE / max(once, 1e-7))))
    ratios: list[float] = []
    times: tuple[list[float], list[float]] = ([], [])
    deadline = time.perf_counter() + seconds
    while len(ratios) < _MAX_PAIRS:
        order = (False, True) if len(ratios) % 2 == 0 else (True, False)
        took = {second: sample(second, repeats) for second in order}
        times[0].append(took[False])
        times[1].append(took[True])
        ratios.append(took[False] / took[True])
        if len(ratios) < _MIN_PAIRS:
            continue
        low, high = median_interval(ratios)
        if time.perf_counter() > deadline or (len(ratios) >= 11 and (low > 1.05 or high < 0.95)):
            break
    low, high = median_interval(ratios)
    return Timing(
        before=_median(times[0]),
        after=_median(times[1]),
        speedup=_median(ratios),
        low=low,
        high=high,
        pairs=len(ratios),
    )


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """95% confidence interval of the median: the number of values below it is binomial."""
    ordered = sorted(values)
    n = len(ordered)
    k = max(0, math.floor(n / 2 - 0.98 * math.sqrt(n)))
    return ordered[k], ordered[n - 1 - k]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far outputs are from the original's."""

    error: float
    """Largest over the rows (first dimension) of |y' - y| / |y|, in L2 norms; 0 for equal rows,
    infinite for a new NaN, another shape or dtype, or integers that differ."""
    cosine: float
    """Smallest over the rows of the cosine between y' and y."""
    max_abs: float
    """Largest absolute difference of an element."""

    def merged(self, other: Difference) -> Difference:
        """The worse of both, each figure on its own."""
        return Difference(
            error=max(self.error, other.error),
            cosine=min(self.cosine, other.cosine),
            max_abs=max(self.max_abs, other.max_abs),
        )


NONE = Difference(error=0.0, cosine=1.0, max_abs=0.0)
INFINITE = Difference(error=math.inf, cosine=-1.0, max_abs=math.inf)


def compare(new: Sequence[torch.Tensor], original: Sequence[torch.Tensor]) -> Difference:
    """The difference of two lists of outputs, the worst of all tensors."""
    if len(new) != len(original):
        return INFINITE
    worst = NONE
    for a, b in zip(new, original):
        worst = worst.merged(_compare(a, b))
    return worst


def _compare(new: torch.Tensor, original: torch.Tensor) -> Difference:
    if new.shape != original.shape or new.dtype != original.dtype:
        return INFINITE
    if original.numel() == 0 or torch.equal(new, original):
        return NONE
    if not original.is_floating_point():
        return INFINITE
    rows = original.shape[0] if original.dim() > 1 else 1
    a, b = new.double().reshape(rows, -1), original.double().reshape(rows, -1)
    if not bool((a.isfinite() == b.isfinite()).all()):
        return INFINITE
    a, b = a.nan_to_num(posinf=0.0, neginf=0.0), b.nan_to_num(posinf=0.0, neginf=0.0)
    distance, size = (a - b).norm(dim=1), b.norm(dim=1)
    relative = torch.where(distance > 0, distance / size, 0.0)
    norms = (a.norm(dim=1) * size).clamp_min(1e-300)
    cosine = torch.where(distance > 0, (a * b).sum(1) / norms, 1.0)
    return Difference(
        error=float(relative.max()),
        cosine=float(cosine.min()),
        max_abs=float((a - b).abs().max()),
    )
