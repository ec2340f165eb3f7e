"""Whether something became slower, decided on intervals.

A run's latency is the interval of the median of its samples, in seconds and, where each sample was
held against a reference of the same minute, as their ratio. It is slower than its baseline when the
whole interval lies beyond the baseline's *in both views*: a machine that slows down changes the
seconds and not the ratio, and a reference that was disturbed alone changes the ratio and not the
seconds. Where the reference was another model, in turn with which the run was measured, the ratio
alone decides. Several runs of the unchanged baseline make its interval narrower, down to where
their medians lie.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kernel_pytorch.core.performance_store import PerformanceMetrics
from kernel_pytorch.core.stats import Interval, median_interval

__all__ = [
    "BUSY",
    "Change",
    "MetricType",
    "RegressionResult",
    "RegressionSeverity",
    "change_between",
    "latency_change",
    "regressions",
    "severity_of_latency",
    "too_busy",
]

_CONFIDENCE = 0.99
_LEAST = {"latency": 0.02, "memory": 0.10, "accuracy": 0.01}
"""Changes up to these are none."""
_MODERATE, _SEVERE = 0.10, 0.25
BUSY = 0.25
"""Where others used more than this part of the machine, a run proves nothing."""


class MetricType(enum.Enum):
    """What is compared."""

    LATENCY = "latency_ms"
    THROUGHPUT = "throughput_samples_per_sec"
    MEMORY = "memory_mb"
    ACCURACY = "accuracy"


class RegressionSeverity(enum.Enum):
    """How much worse it is at least: below 10%, below 25%, or more."""

    NONE = "none"
    MINOR = "minor"
    MODERATE = "moderate"
    SEVERE = "severe"

    @classmethod
    def of(cls, worse: float, least: float) -> RegressionSeverity:
        """``worse``: 0.1 for 10%; up to ``least`` is none."""
        # Changes are quotients: 1.1 / 1 - 1 is a little more than 0.1.
        worse = round(worse, 9)
        if worse <= least:
            return cls.NONE
        return cls.SEVERE if worse >= _SEVERE else cls.MODERATE if worse >= _MODERATE else cls.MINOR


@dataclass
class RegressionResult:
    """One metric that became worse."""

    has_regression: bool
    severity: RegressionSeverity
    """Of the near end of the interval: at least this bad."""
    metric_type: MetricType
    baseline_value: float
    current_value: float
    change_percent: float
    """Positive for more, whether that is worse or better."""
    message: str
    low_percent: float | None = None
    high_percent: float | None = None
    """The interval of ``change_percent``; without samples, itself."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return self.__dict__ | {
            "severity": self.severity.value,
            "metric_type": self.metric_type.value,
        }


class Change(NamedTuple):
    """A relative change, 0.1 for 10% more, and its interval."""

    estimate: float
    low: float
    high: float


def too_busy(*runs: PerformanceMetrics) -> bool:
    """Whether other processes used so much of the machine during one of the runs that their samples
    say nothing. Runs of which one has no samples are taken as they are, and so are runs that were
    measured in turn with a model."""
    if not all(r.samples for r in runs) or all(r.paired for r in runs):
        return False
    return any((r.busy or 0.0) > BUSY for r in runs)


def latency_change(baselines: Sequence[PerformanceMetrics], current: PerformanceMetrics) -> Change:
    """From runs of the same to a new one; of both views, the one that shows less.

    Where a run has no samples, all are the points that ``latency_ms`` names.
    """
    runs = [*baselines, current]
    if not all(r.samples for r in runs):
        middle = sorted(b.latency_ms for b in baselines)[len(baselines) // 2]
        return _point(middle, current.latency_ms)
    views = [([_seconds(b) for b in baselines], _seconds(current))]
    if all(r.reference and r.reference_name == current.reference_name for r in runs):
        relative = ([_ratio(b) for b in baselines], _ratio(current))
        views = [relative] if current.paired else [*views, relative]
    return change_between(views)


def change_between(views: Sequence[tuple[Sequence[Interval], Interval]]) -> Change:
    """From baselines' intervals to a new one, in one or more views of the same: what all show."""
    changes = [_change(baselines, current) for baselines, current in views]
    return Change(
        min((c.estimate for c in changes), key=abs),
        min(c.low for c in changes),
        max(c.high for c in changes),
    )


def severity_of_latency(change: Change) -> RegressionSeverity:
    """How bad a change of the latency is at least."""
    return RegressionSeverity.of(change.low, _LEAST["latency"])


def _seconds(run: PerformanceMetrics) -> Interval:
    return median_interval(run.samples, _CONFIDENCE)


def _ratio(run: PerformanceMetrics) -> Interval:
    return median_interval([s / r for s, r in zip(run.samples, run.reference)], _CONFIDENCE)


def _change(baselines: Sequence[Interval], current: Interval) -> Change:
    medians = sorted(b.median for b in baselines)
    # As narrow as the best of the repeats, but with all their medians inside: that is how far apart
    # runs of the same lie.
    high = max(medians[-1], min(b.high for b in baselines))
    low = min(medians[0], max(b.low for b in baselines))
    return Change(
        current.median / medians[len(medians) // 2] - 1,
        current.low / high - 1,
        current.high / low - 1,
    )


def regressions(
    baselines: Sequence[PerformanceMetrics], current: PerformanceMetrics
) -> list[RegressionResult]:
    """The metrics that became worse; empty when none did, or nothing can be said
    (:func:`too_busy`). Raises ValueError without a baseline."""
    if not baselines:
        raise ValueError("regressions: there is no baseline")
    first = baselines[0]
    found: list[RegressionResult] = []
    if not too_busy(*baselines, current):
        change = latency_change(baselines, current)
        found.append(_result(MetricType.LATENCY, first.latency_ms, current.latency_ms, change, 1))
        if first.throughput > 0 and current.throughput > 0:
            rate = _point(first.throughput, current.throughput)
            if current.samples and first.samples and current.batch_size == first.batch_size:
                # Examples over latency: the same samples decide.
                rate = Change(
                    *(1 / (1 + c) - 1 for c in (change.estimate, change.high, change.low))
                )
            found.append(
                _result(MetricType.THROUGHPUT, first.throughput, current.throughput, rate, -1)
            )
    if first.memory_mb and current.memory_mb is not None:
        change = _point(first.memory_mb, current.memory_mb)
        found.append(_result(MetricType.MEMORY, first.memory_mb, current.memory_mb, change, 1))
    if first.accuracy and current.accuracy is not None:
        change = _point(first.accuracy, current.accuracy)
        found.append(_result(MetricType.ACCURACY, first.accuracy, current.accuracy, change, -1))
    return [r for r in found if r.has_regression]


def _point(before: float, after: float) -> Change:
    return Change(*(3 * [after / before - 1]))


def _result(
    metric: MetricType, before: float, after: float, change: Change, worse: int
) -> RegressionResult:
    """``worse``: 1 when more is worse, -1 when less is."""
    kind = {MetricType.MEMORY: "memory", MetricType.ACCURACY: "accuracy"}.get(metric, "latency")
    # The near end, as a loss: 30% less throughput is 30% worse.
    near = change.low if worse > 0 else -change.high
    severity = RegressionSeverity.of(near, _LEAST[kind])
    name = metric.name.lower()
    interval = "" if change.low == change.high else f" ({change.low:+.1%} to {change.high:+.1%})"
    return RegressionResult(
        has_regression=severity is not RegressionSeverity.NONE,
        severity=severity,
        metric_type=metric,
        baseline_value=before,
        current_value=after,
        change_percent=100 * change.estimate,
        message=f"{severity.value} regression of {name}: {before:.4g} to {after:.4g}, "
        f"{change.estimate:+.1%}{interval}",
        low_percent=100 * change.low,
        high_percent=100 * change.high,
    )
