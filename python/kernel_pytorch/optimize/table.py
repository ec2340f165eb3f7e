"""Reports as tables for the terminal."""

from __future__ import annotations

import io
import math
import shutil
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from kernel_pytorch.optimize.results import Report, Row

__all__ = ["as_text", "count_of", "milliseconds", "render", "size", "speedup", "verdict"]


def milliseconds(seconds: float) -> str:
    """``1.23`` (ms), three significant digits."""
    value = seconds * 1e3
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def speedup(row: Any) -> str:
    """``1.52x [1.48, 1.55]`` of something with a timing."""
    t = row.timing
    return "" if t is None else f"{t.speedup:.2f}x [{t.low:.2f}, {t.high:.2f}]"


def size(count: float) -> str:
    """Bytes in a fitting unit."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def count_of(row: Row) -> str:
    """``6 x 32x128x384``."""
    return f"{row.count} x {row.shapes}" if row.shapes else str(row.count)


def verdict(report: Report, row: Row) -> str:
    """ "kept", "would be tried", or why not."""
    if row.kept:
        return "wins" if report.planned_only else "kept"
    return f"no: {row.reason}"


def _short(ran: str) -> str:
    # A reference's reason can be long; it has a note of its own.
    parts = ["reference" if p.startswith("reference") else p for p in ran.split("; ")]
    variants = [p.removeprefix("native ") for p in parts if p.startswith("native ")]
    native = [f"native ({', '.join(dict.fromkeys(variants))})"] if variants else []
    return ", ".join(native + [p for p in dict.fromkeys(parts) if p and not p.startswith("native")])


def _references(report: Report) -> list[str]:
    return list(
        dict.fromkeys(
            part
            for row in report.rows
            for part in row.ran.split("; ")
            if part.startswith("reference: ")
        )
    )


def _error(row: Row) -> str:
    if row.difference is None:
        return ""
    return "inf" if math.isinf(row.difference.error) else f"{row.difference.error:.1e}"


def render(report: Report) -> Group:
    """The report as rich renderables, for 80 columns and more."""
    parts: list[Any] = [_rows(report), Text(), *_details(report)]
    if report.left:
        left = _table("left as it is")
        left.add_column("modules", overflow="fold")
        left.add_column("why", overflow="fold")
        for item in report.left:
            left.add_row(_names(item.modules, 4), item.reason)
        parts.append(left)
    if report.model is not None:
        parts.append(_whole(report))
    parts.append(Text())
    parts += [Text(f"note: {note}") for note in [*report.notes, *_references(report)]]
    return Group(*parts)


def _table(title: str) -> Table:
    return Table(title=Text(f"\n{title}", "bold"), title_justify="left", box=None, pad_edge=False)


def _rows(report: Report) -> Table:
    title = "plan" if report.planned_only else "optimize"
    table = _table(
        f"{title} {report.model_class}, precision {report.precision}, "
        f"errors up to {report.max_error:.0e}"
    )
    table.add_column("what", overflow="fold")
    table.add_column("modules", overflow="fold")
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("after", justify="right", no_wrap=True)
    table.add_column("gain (95%)", justify="right", no_wrap=True)
    table.add_column("error", justify="right", no_wrap=True)
    table.add_column("wins" if report.planned_only else "kept")
    for row in report.rows:
        t = row.timing
        table.add_row(
            row.kind,
            count_of(row),
            "" if t is None else milliseconds(t.before),
            "" if t is None else milliseconds(t.after),
            speedup(row),
            _error(row),
            Text("yes", "green") if row.kept else Text("no", "yellow"),
        )
    return table


def _names(modules: list[str], shown: int) -> str:
    more = f" and {len(modules) - shown} more" if len(modules) > shown else ""
    return ", ".join(modules[:shown]) + more


def _details(report: Report) -> list[Text]:
    """A line or two for each row: which modules, with which operators, what ran, why not kept."""
    lines = []
    for row in report.rows:
        with_what = f" with {', '.join(row.ops)}" if row.ops else ""
        ran = f", {_short(row.ran)}" if row.ran else ""
        line = Text(row.kind, "bold")
        line.append(f" of {_names(row.modules, 2)}{with_what}{ran}: ", "dim")
        line.append(verdict(report, row), "green" if row.kept else "yellow")
        lines.append(line)
    return lines


def _whole(report: Report) -> Table:
    whole = report.model
    assert whole is not None
    table = _table("whole model")
    for name in ("", "before", "after", ""):
        table.add_column(name, justify="left" if not name else "right", no_wrap=bool(name))
    t = whole.timing
    before, after = whole.throughput
    d = whole.difference
    table.add_row("latency, ms", milliseconds(t.before), milliseconds(t.after), speedup(whole))
    table.add_row("throughput, examples/s", f"{before:.1f}", f"{after:.1f}", "")
    table.add_row(
        "weights",
        size(whole.weight_bytes),
        size(whole.weight_bytes + whole.extra_bytes),
        f"{size(whole.extra_bytes)} packed, originals kept for revert",
    )
    table.add_row(
        "output difference",
        "",
        f"{d.error:.1e} relative",
        f"cosine >= {d.cosine:.6f}, max |diff| {d.max_abs:.1e}",
    )
    return table


def as_text(report: Report) -> str:
    """The tables as plain text."""
    out = io.StringIO()
    width = max(120, shutil.get_terminal_size((140, 24)).columns)
    Console(file=out, width=width, color_system=None).print(render(report))
    return out.getvalue().rstrip()
