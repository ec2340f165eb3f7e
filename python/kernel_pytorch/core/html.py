"""Reports as one self-contained HTML page: inline style and SVG, no scripts, nothing fetched."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Point", "bars", "document", "history", "table"]

_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0;width:100%}
th,td{padding:.3rem .6rem;border-bottom:1px solid #8884;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.kept{color:#2a7d3f}.no{color:#a05a00}
svg text{font:13px system-ui,sans-serif;fill:currentColor}
"""
_BLUE = "#4a7fb5"


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
            f'<rect x="258" y="{y + 5}" width="{width:.1f}" height="17" fill="{_BLUE}"/>'
            f'<text x="{264 + width:.1f}" y="{y + 18}">{html.escape(text)}</text>'
        )
    return "".join(parts) + "</svg>"


class Point(NamedTuple):
    """A value with its interval, in a history."""

    value: float
    low: float
    high: float
    label: str
    """Shown when one points at it."""


def history(points: Sequence[Point], unit: str, label: str) -> str:
    """Values in their order from left to right, each with its interval (SVG); the axis begins at
    zero, so that changes look as large as they are."""
    if not points:
        return ""
    left, right, top, bottom = 70, 850, 10, 190
    most = max(p.high for p in points) * 1.05 or 1.0
    step = (right - left) / len(points)

    def y(value: float) -> float:
        return bottom - (bottom - top) * value / most

    parts = [
        f'<svg role="img" aria-label="{html.escape(label)}" width="100%" viewBox="0 0 860 200">'
    ]
    for part in range(5):
        value = most * part / 4
        parts.append(
            f'<line x1="{left}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            f'stroke="#8884"/><text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">'
            f"{value:.3g} {html.escape(unit)}</text>"
        )
    middles = [(left + step * (i + 0.5), p) for i, p in enumerate(points)]
    line = " ".join(f"{x:.1f},{y(p.value):.1f}" for x, p in middles)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{_BLUE}" stroke-opacity=".5"/>')
    for x, p in middles:
        parts.append(
            f"<g><title>{html.escape(p.label)}</title>"
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y(p.low):.1f}" y2="{y(p.high):.1f}" '
            f'stroke="{_BLUE}" stroke-width="2"/>'
            f'<circle cx="{x:.1f}" cy="{y(p.value):.1f}" r="4" fill="{_BLUE}"/></g>'
        )
    return "".join(parts) + "</svg>"
