"""What a demonstration shows: tables, plots, and checks that decide its exit code."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kernel_pytorch.core.html import document, table

__all__ = ["Check", "Curve", "Listing", "Walkthrough"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A figure and the bound that it must keep."""

    what: str
    value: float
    bound: float
    at_most: bool

    @property
    def kept(self) -> bool:
        """Whether it does; NaN never does."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A table; columns from the second on are figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Values over steps, to be plotted with others."""

    name: str
    values: Sequence[float]


_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")


@dataclass(kw_only=True)
class Walkthrough:
    """A demonstration's result; printable with rich."""

    title: str
    say: Callable[[str], None] = lambda _: None
    listings: list[Listing] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0

    def at_most(self, what: str, value: float, bound: float) -> None:
        """Check that ``value`` does not exceed ``bound``."""
        self.checks.append(Check(what=what, value=float(value), bound=bound, at_most=True))

    def at_least(self, what: str, value: float, bound: float) -> None:
        """Check that ``value`` reaches ``bound``."""
        self.checks.append(Check(what=what, value=float(value), bound=bound, at_most=False))

    def listing(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table."""
        self.listings.append(Listing(title=title, columns=columns, rows=rows))

    def finished(self) -> Walkthrough:
        """Notes how long it took."""
        self.seconds = time.perf_counter() - self.started
        return self

    @property
    def exit_code(self) -> int:
        """0 when every check holds, else 1; a demonstration without checks shows nothing."""
        return 0 if self.checks and all(c.kept for c in self.checks) else 1

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "title": self.title,
            "exit_code": self.exit_code,
            "checks": [
                {
                    "what": c.what,
                    "value": c.value,
                    "bound": c.bound,
                    "at_most": c.at_most,
                    "kept": c.kept,
                }
                for c in self.checks
            ],
            "tables": [
                {"title": t.title, "columns": list(t.columns), "rows": [list(r) for r in t.rows]}
                for t in self.listings
            ],
            "curves": {c.name: list(c.values) for c in self.curves},
            "seconds": self.seconds,
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def _check_rows(self) -> list[tuple[str, str, str, str]]:
        return [
            (
                c.what,
                f"{c.value:.4g}",
                f"{'<=' if c.at_most else '>='} {c.bound:g}",
                "ok" if c.kept else "MISSED",
            )
            for c in self.checks
        ]

    def __rich__(self) -> Group:
        parts: list[Any] = []
        for shown in self.listings:
            printed = Table(title=shown.title)
            for i, column in enumerate(shown.columns):
                printed.add_column(column, justify="right" if i else "left")
            for row in shown.rows:
                printed.add_row(*(Text(cell) for cell in row))
            parts.append(printed)
        checked = Table(title="checked")
        for i, column in enumerate(("what", "measured", "bound", "")):
            checked.add_column(column, justify="right" if i in (1, 2) else "left")
        for what, value, bound, verdict in self._check_rows():
            style = "green" if verdict == "ok" else "bold red"
            checked.add_row(Text(what), value, bound, Text(verdict, style))
        return Group(*parts, checked, Text(f"{self.title}: took {self.seconds:.0f} s"))

    def to_html(self) -> str:
        """A self-contained page."""
        parts = [_plot(self.curves)] if self.curves else []
        for shown in self.listings:
            figures = tuple(range(1, len(shown.columns)))
            parts.append(f"<h2>{html.escape(shown.title)}</h2>")
            parts.append(table(tuple(shown.columns), [tuple(r) for r in shown.rows], figures))
        parts.append(
            "<h2>Checked</h2>"
            + table(("what", "measured", "bound", ""), self._check_rows(), (1, 2))
        )
        return document(self.title, "".join(parts))


def _plot(curves: Sequence[Curve]) -> str:
    """The curves as one SVG, values over steps."""
    width, height, left, low = 720, 320, 56, 28
    values = [v for c in curves for v in c.values]
    bottom, top = min(values), max(values)
    span = (top - bottom) or 1.0
    parts = []
    for mark in range(5):
        y = low / 2 + (height - low - low / 2) * mark / 4
        parts.append(f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        value = top - span * mark / 4
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for i, curve in enumerate(curves):
        colour = _COLOURS[i % len(_COLOURS)]
        last = max(1, len(curve.values) - 1)
        points = " ".join(
            f"{left + (width - left - 8) * step / last:.1f},"
            f"{low / 2 + (height - low - low / 2) * (top - v) / span:.1f}"
            for step, v in enumerate(curve.values)
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        )
        name = f'<text x="{width - 150}" y="{28 + 16 * i}" style="fill:{colour}">'
        parts.append(f"{name}{html.escape(curve.name)}</text>")
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-size="12" role="img" aria-label="curves">{"".join(parts)}</svg>'
    )
