"""Paired, interleaved timing of two ways to do the same work."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from kernel_pytorch.bench.inputs import Call
from kernel_pytorch.core.stats import Interval, median, median_interval

__all__ = ["Paired", "Side", "measure_pairs"]

_SAMPLE_SECONDS = 3e-4
_MIN_PAIRS = 9
_COLLAPSE = 1.35
"""A canary this much slower than the median one: a core was lost, or the clock fell."""


class Side:
    """One way to do the work: a function and the calls it is timed with, in rotation."""

    def __init__(self, function: Callable[..., Any], calls: Sequence[Call], start: int = 0) -> None:
        self._function = function
        self._calls: Iterator[Call] = itertools.islice(itertools.cycle(calls), start, None)
        self.inner = 1

    def sample(self) -> float:
        """Seconds a call, over ``inner`` calls in a row."""
        function = self._function
        calls = list(itertools.islice(self._calls, self.inner))
        start = time.perf_counter_ns()
        for args, kwargs in calls:
            function(*args, **kwargs)
        return (time.perf_counter_ns() - start) * 1e-9 / self.inner

    def calibrate(self) -> None:
        """Warms up and makes a sample long enough for the clock."""
        self.sample()
        seconds = min(self.sample() for _ in range(3))
        self.inner = max(1, min(1000, round(_SAMPLE_SECONDS / seconds)))
        self.sample()


class Paired(NamedTuple):
    """Seconds a call of both sides, and their ratio ``second / first``, pair by pair."""

    first: float
    second: float
    ratio: Interval
    pairs: int
    dropped: int
    """Pairs left out because a neighbouring canary collapsed."""
    samples: tuple[tuple[float, float], ...]
    """Seconds of both sides, of the pairs that count, in order."""
    unsteady: bool
    """Most canaries collapsed, so nothing was left out: pairs still compare, times do not."""


def measure_pairs(
    first: Side,
    second: Side,
    canary: Callable[[], float],
    *,
    seconds: float,
    max_pairs: int = 400,
) -> Paired:
    """Times the two sides alternately for about ``seconds``.

    A pair is one sample of each, in alternating order; ``canary`` runs before and after it. Stops
    early when the interval is within 1% of the median.
    """
    first.calibrate()
    second.calibrate()
    times: list[tuple[float, float]] = []
    canaries: list[float] = [canary()]
    deadline = time.monotonic() + seconds
    while len(times) < max_pairs:
        if len(times) % 2:
            b = second.sample()
            a = first.sample()
        else:
            a = first.sample()
            b = second.sample()
        times.append((a, b))
        canaries.append(canary())
        if len(times) < _MIN_PAIRS:
            continue
        if time.monotonic() > deadline:
            break
        if len(times) >= 25 and len(times) % 8 == 0:
            spread = median_interval([y / x for x, y in times])
            if spread.high - spread.low < 0.01 * spread.median:
                break
    usual = median(canaries)
    kept = [
        pair
        for pair, before, after in zip(times, canaries, canaries[1:])
        if max(before, after) <= _COLLAPSE * usual
    ]
    dropped = len(times) - len(kept)
    unsteady = len(kept) < len(times) / 4
    if unsteady:
        kept, dropped = times, 0
    return Paired(
        first=median([a for a, _ in kept]),
        second=median([b for _, b in kept]),
        ratio=median_interval([b / a for a, b in kept]),
        pairs=len(kept),
        dropped=dropped,
        samples=tuple(kept),
        unsteady=unsteady,
    )
