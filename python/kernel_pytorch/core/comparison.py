"""Two sets of runs, subject by subject: what became slower, faster, or cannot be told."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kernel_pytorch.core.html import document, table
from kernel_pytorch.core.performance_store import PerformanceMetrics, is_paired
from kernel_pytorch.core.regression import (
    BUSY,
    Change,
    RegressionSeverity,
    change_between,
    severity_of_latency,
)
from kernel_pytorch.core.stats import Interval, median_interval

__all__ = ["Comparison", "Measured", "Pair", "Verdict", "compare", "measured"]

_REPEATS = 20


class Verdict(enum.Enum):
    """What the intervals say of a subject."""

    SLOWER = "slower"
    FASTER = "faster"
    SAME = "no difference beyond noise"
    UNKNOWN = "not judged"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One subject's latency in one run."""

    subject: str
    title: str
    seconds: Interval
    relative: Interval | None = None
    """Against the reference of the same minutes."""
    reference_name: str = ""
    busy: float | None = None
    machine: dict[str, str] = field(default_factory=dict)

    @property
    def disturbed(self) -> bool:
        """Whether the machine was too busy for this to say anything."""
        return (self.busy or 0.0) > BUSY and not is_paired(self.reference_name)

    @staticmethod
    def of(run: PerformanceMetrics) -> Measured:
        """A stored run; without samples, its ``latency_ms``."""
        seconds = Interval(*(3 * [run.latency_ms * 1e-3]))
        relative = None
        if run.samples:
            seconds = median_interval(run.samples, 0.99)
        if run.samples and run.reference:
            relative = median_interval([s / r for s, r in zip(run.samples, run.reference)], 0.99)
        parts = (run.model_name, run.backend, run.optimization_level)
        return Measured(
            subject="/".join((run.model_hash, run.backend, run.optimization_level)),
            title=" / ".join(filter(None, parts)),
            seconds=seconds,
            relative=relative,
            reference_name=run.reference_name,
            busy=run.busy,
            machine=run.machine,
        )


def measured(runs: Sequence[PerformanceMetrics]) -> dict[str, list[Measured]]:
    """By subject, the newest run first and those before it of the same commit; ``runs`` are newest
    first, as a store gives them."""
    found: dict[str, list[Measured]] = {}
    commits: dict[str, str] = {}
    for run in runs:
        one = Measured.of(run)
        newest = commits.setdefault(one.subject, run.commit)
        kept = found.setdefault(one.subject, [])
        # Local changes have no name: runs with them may differ in anything.
        if not kept or (run.commit == newest and not newest.endswith("+")):
            kept.append(one)
    return {subject: kept[:_REPEATS] for subject, kept in found.items()}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One subject before and after."""

    title: str
    before: float
    after: float
    """Median seconds."""
    change: Change | None
    """Of the latency; None where it was not judged."""
    severity: RegressionSeverity
    reason: str = ""
    """Why it was not judged."""

    @property
    def verdict(self) -> Verdict:
        if self.change is None:
            return Verdict.UNKNOWN
        if self.severity is not RegressionSeverity.NONE:
            return Verdict.SLOWER
        return Verdict.FASTER if self.change.high < 0 else Verdict.SAME

    def cells(self) -> tuple[str, str, str, str, str, str]:
        """Title, before, after, change, interval, verdict: as texts."""
        change = interval = ""
        if self.change is not None:
            change = f"{self.change.estimate:+.1%}"
            interval = f"{self.change.low:+.1%} to {self.change.high:+.1%}"
        verdict = self.verdict.value
        if self.verdict is Verdict.SLOWER:
            verdict += f" ({self.severity.value})"
        if self.reason:
            verdict += f": {self.reason}"
        return (
            self.title,
            f"{self.before * 1e3:.4g}",
            f"{self.after * 1e3:.4g}",
            change,
            interval,
            verdict,
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What :func:`compare` found."""

    before: str
    after: str
    """Names of the two sets."""
    pairs: list[Pair]
    only_before: list[str]
    only_after: list[str]

    HEADER = ("what", "before, ms", "after, ms", "change", "99% interval", "verdict")

    def regressions(self, at_least: RegressionSeverity) -> list[Pair]:
        """The subjects that became slower by this severity or more."""
        order = list(RegressionSeverity)
        worst = order.index(at_least)
        return [p for p in self.pairs if order.index(p.severity) >= max(1, worst)]

    @property
    def judged(self) -> int:
        """How many subjects could be judged."""
        return sum(p.change is not None for p in self.pairs)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data: milliseconds, changes as shares (0.1 is 10% slower)."""
        return {
            "before": self.before,
            "after": self.after,
            "pairs": [
                {
                    "what": p.title,
                    "before_ms": p.before * 1e3,
                    "after_ms": p.after * 1e3,
                    "change": None if p.change is None else p.change.estimate,
                    "interval": None if p.change is None else [p.change.low, p.change.high],
                    "verdict": p.verdict.name.lower(),
                    "severity": p.severity.value,
                    "reason": p.reason,
                }
                for p in self.pairs
            ],
            "only_before": self.only_before,
            "only_after": self.only_after,
        }

    def to_html(self) -> str:
        """A self-contained page."""
        body = table(self.HEADER, [p.cells() for p in self.pairs], numeric=(1, 2, 3, 4))
        for what, names in (("before", self.only_before), ("after", self.only_after)):
            if names:
                body += f"<h2>Only {what}</h2>" + table(("what",), [(name,) for name in names])
        return document(f"{self.before} and {self.after}", body)


def compare(
    before: dict[str, list[Measured]],
    after: dict[str, list[Measured]],
    names: tuple[str, str] = ("before", "after"),
) -> Comparison:
    """Each subject's newest run in ``after`` against its runs in ``before``."""

    def titles(found: dict[str, list[Measured]], but: Iterable[str]) -> list[str]:
        return sorted(runs[0].title for subject, runs in found.items() if subject not in but)

    return Comparison(
        before=names[0],
        after=names[1],
        pairs=[_pair(before[s], after[s][0]) for s in sorted(before) if s in after],
        only_before=titles(before, after),
        only_after=titles(after, before),
    )


def _pair(before: Sequence[Measured], after: Measured) -> Pair:
    # Undisturbed repeats say more; without one there is nothing to hold against.
    steady = [b for b in before if not b.disturbed]
    baselines = steady or list(before)
    relative = all(
        b.relative is not None and b.reference_name == after.reference_name for b in baselines
    )
    relative = relative and after.relative is not None
    here = all(b.machine == after.machine for b in baselines)
    views: list[tuple[list[Interval], Interval]] = []
    if here and not (relative and is_paired(after.reference_name)):
        views.append(([b.seconds for b in baselines], after.seconds))
    if relative:
        views.append(
            ([b.relative for b in baselines if b.relative], after.relative or after.seconds)
        )
    reason = ""
    if not steady or after.disturbed:
        reason = "other processes used the machine"
    elif not views:
        reason = "another machine, and no common reference"
    change = None if reason else change_between(views)
    return Pair(
        title=after.title,
        before=baselines[0].seconds.median,
        after=after.seconds.median,
        change=change,
        severity=RegressionSeverity.NONE if change is None else severity_of_latency(change),
        reason=reason,
    )
