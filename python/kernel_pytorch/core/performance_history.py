"""Runs over time as a page: what became of each model and operator."""

from __future__ import annotations

import html

from kernel_pytorch.core.html import Point, document, history, table
from kernel_pytorch.core.performance_store import PerformanceMetrics
from kernel_pytorch.core.stats import median_interval

__all__ = ["history_page"]


def history_page(runs: list[PerformanceMetrics]) -> str:
    """Runs, oldest first, as a page: a plot and a table for each subject, backend and level."""
    groups: dict[tuple[str, str, str, str], list[PerformanceMetrics]] = {}
    for run in runs:
        key = (run.model_name, run.model_hash, run.backend, run.optimization_level)
        groups.setdefault(key, []).append(run)
    parts = []
    for key, found in groups.items():
        title = " / ".join(part for part in key if part)
        points = [_point(run) for run in found]
        parts.append(f"<h2>{html.escape(title)}</h2>{history(points, 'ms', f'latency of {title}')}")
        parts.append(
            table(
                (
                    "when",
                    "commit",
                    "latency, ms",
                    "99% interval",
                    "samples",
                    "MiB",
                    "others' share",
                ),
                [
                    (
                        run.timestamp,
                        run.commit,
                        f"{point.value:.4g}",
                        f"{point.low:.4g} - {point.high:.4g}",
                        str(len(run.samples)),
                        "" if run.memory_mb is None else f"{run.memory_mb:.4g}",
                        "" if run.busy is None else f"{run.busy:.0%}",
                    )
                    for run, point in zip(found, points)
                ],
                numeric=(2, 3, 4, 5, 6),
            )
        )
    return document("Performance history", "".join(parts) or "<p>No runs.</p>")


def _point(run: PerformanceMetrics) -> Point:
    label = f"{run.timestamp} {run.commit}: {run.latency_ms:.4g} ms"
    if not run.samples:
        return Point(run.latency_ms, run.latency_ms, run.latency_ms, label)
    middle, low, high = (1e3 * s for s in median_interval(run.samples, 0.99))
    return Point(middle, low, high, label)
