"""A record as one self-contained HTML page: plots in inline SVG, the table, the machine."""

from __future__ import annotations

import html
import math

from kernel_pytorch.bench import tables
from kernel_pytorch.bench.record import Record, Row

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #d5d9de;
  --good: #1a7f37; --bad: #b3261e; --even: #6e7781; --bar: #3b6fb6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --paper: #15181c;
  --faint: #3a4048; --good: #4ac26b; --bad: #ff7b72; --even: #8b949e; --bar: #79a7e3; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--faint); }
th:nth-child(n+4):nth-child(-n+8), td:nth-child(n+4):nth-child(-n+8) { text-align: right; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
.scroll { overflow-x: auto; }
"""

_LABEL, _PLOT, _STEP, _TOP = 380, 560, 22, 34


def _e(text: object) -> str:
    return html.escape(str(text))


def _label(row: Row) -> str:
    return f"{row.op} {row.name} {row.dtype}"


def _svg(title: str, height: int, parts: list[str]) -> str:
    width = _LABEL + _PLOT + 70
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{_e(title)}">'
        + "".join(parts)
        + "</svg>"
    )


def _axis(x: float, bottom: int, text: str, strong: bool = False) -> str:
    colour, size = ("--ink", 1.4) if strong else ("--faint", 1)
    return (
        f'<line x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{bottom}" '
        f'stroke="var({colour})" stroke-width="{size}"/>'
        f'<text x="{x:.1f}" y="{_TOP - 14}" text-anchor="middle">{_e(text)}</text>'
    )


def _ratios(rows: list[Row]) -> str:
    """A point with its interval per row on a logarithmic axis; right of 1 is faster."""
    low = math.floor(math.log2(min(0.9, *(r.ratio_low for r in rows))))
    high = math.ceil(math.log2(max(1.1, *(r.ratio_high for r in rows))))

    def at(ratio: float) -> float:
        return _LABEL + _PLOT * (math.log2(ratio) - low) / (high - low)

    bottom = _TOP + _STEP * len(rows)
    parts = [_axis(at(2.0**p), bottom, f"{2.0**p:g}x", p == 0) for p in range(low, high + 1)]
    for i, row in enumerate(rows):
        y = _TOP + _STEP * i + _STEP // 2
        colour = "--good" if row.ratio_low > 1 else "--bad" if row.ratio_high < 1 else "--even"
        parts.append(
            f"<g><title>{_e(_label(row))}: {row.ratio:.2f}x "
            f"[{row.ratio_low:.2f}, {row.ratio_high:.2f}], {_e(row.variant)}</title>"
            f'<text x="{_LABEL - 10}" y="{y + 4}" text-anchor="end">{_e(_label(row))}</text>'
            f'<line x1="{at(row.ratio_low):.1f}" x2="{at(row.ratio_high):.1f}" y1="{y}" '
            f'y2="{y}" stroke="var({colour})" stroke-width="3"/>'
            f'<circle cx="{at(row.ratio):.1f}" cy="{y}" r="4.5" fill="var({colour})"/>'
            f'<text x="{at(row.ratio_high) + 9:.1f}" y="{y + 4}">{row.ratio:.2f}</text></g>'
        )
    return _svg("Speed against PyTorch", bottom + 8, parts)


def _shares(rows: list[Row]) -> str:
    """A bar per row: the share of the machine's limit."""
    top = max(1.0, *(r.limit_share for r in rows))

    def at(share: float) -> float:
        return _LABEL + _PLOT * share / top

    bottom = _TOP + _STEP * len(rows)
    parts = [_axis(at(s / 4), bottom, f"{25 * s}%", s == 4) for s in range(int(4 * top) + 1)]
    for i, row in enumerate(rows):
        y = _TOP + _STEP * i
        parts.append(
            f'<text x="{_LABEL - 10}" y="{y + 15}" text-anchor="end">{_e(_label(row))}</text>'
            f'<rect x="{_LABEL}" y="{y + 4}" width="{at(row.limit_share) - _LABEL:.1f}" '
            f'height="14" rx="2" fill="var(--bar)"/>'
            f'<text x="{at(row.limit_share) + 6:.1f}" y="{y + 15}">'
            f"{100 * row.limit_share:.0f}% {_e(row.bound)}</text>"
        )
    return _svg("Share of the machine's limit", bottom + 8, parts)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    def line(tag: str, texts: tuple[str, ...]) -> str:
        return "<tr>" + "".join(f"<{tag}>{_e(t)}</{tag}>" for t in texts) + "</tr>"

    body = "".join(line("td", r) for r in rows)
    return f'<div class="scroll"><table>{line("th", header)}{body}</table></div>'


def page(record: Record) -> str:
    """The whole document."""
    version = record.versions
    dropped = sum(r.dropped for r in record.rows)
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>KernelPyTorch benchmarks</title><style>{_STYLE}</style>",
        "<h1>KernelPyTorch against PyTorch</h1>",
        f"<p>{_e(tables.machine_text(record.machine))}.<br>KernelPyTorch "
        f"{_e(version.kernel_pytorch)} ({_e(version.commit or 'no commit')}), PyTorch "
        f"{_e(version.torch)} ({_e(version.torch_cpu_capability)}"
        + (
            f", oneDNN limited to {_e(version.onednn_isa_limit)}"
            if version.onednn_isa_limit
            else ""
        )
        + f"), Python {_e(version.python)}, {_e(record.date)}.<br>"
        f"Limits measured in the same run: {_e(tables.limit_text(record))}.</p>",
        "<h2>Speed</h2><p>PyTorch's time over ours, the median of interleaved pairs with its 95% "
        "interval. Right of 1 is faster.</p>",
        _ratios(record.rows) if record.rows else "",
        "<h2>Share of the limit</h2><p>The least time that the measured bandwidth and arithmetic "
        "allow, over ours.</p>",
        _shares(record.rows) if record.rows else "",
        "<h2>Table</h2>",
        _table(
            (*tables.HEADER, "inputs", "pairs"),
            [
                (*tables.cells(r), r.residency, f"{r.pairs} ({r.dropped} dropped)")
                for r in record.rows
            ],
        ),
        f"<p>{dropped} pairs were dropped because a core was lost next to them.</p>",
    ]
    if record.overhead:
        parts += [
            "<h2>Cost of a call</h2><p>Whole calls on tensors of a few numbers.</p>",
            _table(
                ("KPT", "time", "PyTorch", "time"),
                [
                    (o.name, tables.time_text(o.kpt), o.torch_name, tables.time_text(o.torch))
                    for o in record.overhead
                ],
            ),
        ]
    if record.skipped:
        parts += ["<h2>Not run</h2>", _table(("row", "why"), list(record.skipped.items()))]
    return "\n".join(parts) + "</html>\n"
