"""Reports as one self-contained HTML page: inline style and SVG, no scripts."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from kernel_pytorch.optimize.results import Report, Row
from kernel_pytorch.optimize.table import count_of, milliseconds, size, speedup, verdict

__all__ = ["bars", "document", "page", "page_body", "table"]

_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0;width:100%}
th,td{padding:.3rem .6rem;border-bottom:1px solid #8884;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.kept{color:#2a7d3f}.no{color:#a05a00}
svg text{font:13px system-ui,sans-serif;fill:currentColor}
"""


def document(title: str, body: str) -> str:
    """A page around ``body`` (HTML)."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{body}</body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """An HTML table of text cells; columns in ``numeric`` are right-aligned."""

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if i in numeric else ''}>{html.escape(v)}</{tag}>"
            for i, v in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', head)}</tr></thead><tbody>{body}</tbody></table>"


def bars(items: Sequence[tuple[str, float, str]], label: str) -> str:
    """A horizontal bar chart (SVG) of (name, value, text beside the bar)."""
    if not items:
        return ""
    top = max(value for _, value, _ in items) or 1.0
    height = 26 * len(items) + 6
    parts = [
        f'<svg role="img" aria-label="{html.escape(label)}" width="100%" '
        f'viewBox="0 0 860 {height}">'
    ]
    for i, (name, value, text) in enumerate(items):
        y = 26 * i
        width = max(1.0, 440 * value / top)
        parts.append(
            f'<text x="250" y="{y + 18}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect x="258" y="{y + 5}" width="{width:.1f}" height="17" fill="#4a7fb5"/>'
            f'<text x="{264 + width:.1f}" y="{y + 18}">{html.escape(text)}</text>'
        )
    return "".join(parts) + "</svg>"


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
