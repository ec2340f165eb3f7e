"""The report of an optimization as a page."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from kernel_pytorch.core.html import bars, document, table
from kernel_pytorch.optimize.results import Report, Row
from kernel_pytorch.optimize.table import count_of, milliseconds, size, speedup, verdict

__all__ = ["page", "page_body"]


def page(report: Report) -> str:
    """The whole report as a page."""
    what = "Plan for" if report.planned_only else "Optimization of"
    return document(f"{what} {report.model_class} ({report.precision})", page_body(report))


def page_body(report: Report) -> str:
    """The report's sections."""
    parts: list[str] = []
    if report.model is not None:
        parts.append(_whole(report))
    timed = [row for row in report.rows if row.timing is not None]
    chart = [
        (f"{row.count} x {row.kind}", row.timing.speedup, speedup(row))
        for row in timed
        if row.timing is not None
    ]
    parts.append("<h2>Replacements</h2>" + bars(chart, "speed-up of each replacement"))
    parts.append(_rows(report, report.rows))
    if report.left:
        rows = [(", ".join(item.modules), item.reason) for item in report.left]
        parts.append("<h2>Left as it is</h2>" + table(("modules", "why"), rows))
    parts += [f"<p>{html.escape(note)}</p>" for note in report.notes]
    environment = [(k, str(v)) for k, v in report.environment.items()]
    parts.append("<h2>Measured with</h2>" + table(("", ""), environment))
    return "".join(parts)


def _rows(report: Report, rows: Sequence[Row]) -> str:
    head = ("what", "with", "modules", "before, ms", "after, ms", "gain", "error", "ran", "kept")
    cells = []
    for row in rows:
        t, d = row.timing, row.difference
        error = "" if d is None else "infinite" if math.isinf(d.error) else f"{d.error:.1e}"
        cells.append(
            (
                row.kind,
                ", ".join(row.ops),
                f"{count_of(row)}: {', '.join(row.modules)}",
                "" if t is None else milliseconds(t.before),
                "" if t is None else milliseconds(t.after),
                speedup(row),
                error,
                row.ran,
                verdict(report, row),
            )
        )
    return table(head, cells, numeric=(3, 4, 5, 6))


def _whole(report: Report) -> str:
    whole = report.model
    assert whole is not None
    t, d = whole.timing, whole.difference
    before, after = whole.throughput
    chart = bars(
        [
            ("original", t.before, f"{milliseconds(t.before)} ms"),
            ("optimized", t.after, f"{milliseconds(t.after)} ms, {speedup(whole)}"),
        ],
        "latency of the whole model",
    )
    rows = [
        ("throughput, examples/s", f"{before:.1f}", f"{after:.1f}"),
        ("weights", size(whole.weight_bytes), size(whole.weight_bytes + whole.extra_bytes)),
        ("relative error of the output", "", f"{d.error:.2e}"),
        ("smallest cosine", "", f"{d.cosine:.6f}"),
        ("largest difference", "", f"{d.max_abs:.2e}"),
    ]
    return f"<h2>Whole model</h2>{chart}{table(('', 'before', 'after'), rows, numeric=(1, 2))}"
