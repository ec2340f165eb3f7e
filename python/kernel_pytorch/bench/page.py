"""A record as one self-contained HTML page: a table with a plot in every row, and filters.

The filters are a few lines of script; without it the page shows everything.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

from kernel_pytorch.bench import tables
from kernel_pytorch.bench.record import Record, Row

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #d5d9de; --soft: #f4f6f8;
  --good: #1a7f37; --bad: #b3261e; --even: #6e7781; --bar: #3b6fb6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --paper: #15181c; --soft: #1e2329;
  --faint: #3a4048; --good: #4ac26b; --bad: #ff7b72; --even: #8b949e; --bar: #79a7e3; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 92rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: .3rem; } h2 { margin-top: 2.2rem; }
.note { color: var(--even); max-width: 60rem; }
.limits { display: flex; flex-wrap: wrap; gap: .8rem; padding: 0; list-style: none; }
.limits li { border: 1px solid var(--faint); border-radius: 6px; padding: .4rem .9rem; }
.limits b { display: block; font-size: 1.25rem; } .limits small { color: var(--even); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid var(--faint);
  white-space: nowrap; }
th { position: sticky; top: 0; background: var(--paper); vertical-align: bottom; }
td.n, th.n { text-align: right; } td.plot, th.plot { padding: 0 .6rem; }
tbody tr:hover { background: var(--soft); }
svg { display: block; } svg text { font: 11px system-ui, sans-serif; fill: var(--even); }
.good { color: var(--good); } .bad { color: var(--bad); } .even { color: var(--even); }
.scroll { overflow-x: auto; }
form { display: flex; flex-wrap: wrap; gap: .9rem; align-items: center; margin: .8rem 0; }
select, input { font: inherit; color: inherit; background: var(--soft);
  border: 1px solid var(--faint); border-radius: 5px; padding: .2rem .5rem; }
"""

_SCRIPT = """
const form = document.forms.filters, rows = [...document.querySelectorAll('#rows tr')];
function show() {
  const want = Object.fromEntries(new FormData(form)), text = want.text.toLowerCase();
  let count = 0;
  for (const row of rows) {
    const d = row.dataset;
    const on = (!want.op || d.op === want.op) && (!want.dtype || d.dtype === want.dtype)
      && (!want.verdict || d.verdict === want.verdict)
      && row.textContent.toLowerCase().includes(text);
    row.hidden = !on;
    count += on;
  }
  document.getElementById('count').textContent = `${count} of ${rows.length} rows`;
}
form.addEventListener('input', show);
form.addEventListener('submit', event => event.preventDefault());
form.hidden = false;
show();
"""

_WIDTH, _HEIGHT = 230, 22
_BAR = 80


def _e(text: object) -> str:
    return html.escape(str(text))


def _verdict(row: Row) -> str:
    """ "good", "bad" or "even": whether the whole interval lies on one side of 1."""
    return "good" if row.ratio_low > 1 else "bad" if row.ratio_high < 1 else "even"


class _Axis:
    """A logarithmic axis of ratios that holds every row's interval."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.low = math.floor(math.log2(min(0.9, *(r.ratio_low for r in rows))))
        self.high = math.ceil(math.log2(max(1.1, *(r.ratio_high for r in rows))))

    def at(self, ratio: float) -> float:
        return 14 + (_WIDTH - 28) * (math.log2(ratio) - self.low) / (self.high - self.low)

    def lines(self) -> str:
        return "".join(
            f'<line x1="{self.at(2.0**p):.1f}" x2="{self.at(2.0**p):.1f}" y1="0" y2="{_HEIGHT}" '
            f'stroke="var(--{"ink" if p == 0 else "faint"})"/>'
            for p in range(self.low, self.high + 1)
        )

    def header(self) -> str:
        step = max(1, math.ceil((self.high - self.low) / 8))
        first = -(-self.low // step) * step  # so that 1x is among those named
        labels = "".join(
            f'<text x="{self.at(2.0**p):.1f}" y="14" text-anchor="middle">{2.0**p:g}x</text>'
            for p in range(first, self.high + 1, step)
        )
        return f'<svg width="{_WIDTH}" height="18" aria-hidden="true">{labels}</svg>'

    def point(self, row: Row) -> str:
        colour, y = _verdict(row), _HEIGHT // 2
        return (
            f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{row.ratio:.2f}x">'
            f"{self.lines()}"
            f'<line x1="{self.at(row.ratio_low):.1f}" x2="{self.at(row.ratio_high):.1f}" y1="{y}" '
            f'y2="{y}" stroke="var(--{colour})" stroke-width="3"/>'
            f'<circle cx="{self.at(row.ratio):.1f}" cy="{y}" r="4.5" fill="var(--{colour})"/></svg>'
        )


def _share(row: Row) -> str:
    width = _BAR * min(1.0, row.limit_share)
    return (
        f'<svg width="{_BAR}" height="{_HEIGHT}" role="img" '
        f'aria-label="{100 * row.limit_share:.0f}%">'
        f'<rect y="5" width="{_BAR}" height="12" rx="2" fill="var(--faint)"/>'
        f'<rect y="5" width="{width:.1f}" height="12" rx="2" fill="var(--bar)"/></svg>'
    )


def _row(row: Row, axis: _Axis) -> str:
    op, name, dtype, ours, theirs, ratio, interval, limit, goal, variant = tables.cells(row)
    title = (
        f"{row.pairs} pairs, {row.dropped} dropped; inputs: {row.residency}; variant: {row.variant}"
    )
    if row.met is False and row.goal_why:
        title += f"; missed: {row.goal_why}"
    verdict = _verdict(row)
    cells = [
        f"<td>{_e(op)}</td><td>{_e(name)}</td><td>{_e(dtype)}</td>",
        f"<td class=n>{_e(ours)}</td><td class=n>{_e(theirs)}</td>",
        f'<td class="n {verdict}"><b>{_e(ratio)}</b></td><td class=n>{_e(interval)}</td>',
        f"<td class=plot>{axis.point(row)}</td>",
        f"<td class=n>{_e(limit)}</td><td class=plot>{_share(row)}</td>",
        f"<td>{_e(goal)}</td><td>{_e(variant)}</td>",
    ]
    return (
        f'<tr title="{_e(title)}" data-op="{_e(row.op)}" data-dtype="{_e(row.dtype)}" '
        f'data-verdict="{verdict}">{"".join(cells)}</tr>'
    )


def _rows(rows: Sequence[Row]) -> str:
    axis = _Axis(rows)
    head = (
        "<tr><th>op<th>shape<th>dtype<th class=n>KPT<th class=n>PyTorch<th class=n>ratio"
        f"<th class=n>95% interval<th class=plot>{axis.header()}"
        "<th class=n>of limit<th><th>goal<th>variant</tr>"
    )
    body = "".join(_row(row, axis) for row in rows)
    return (
        f'<div class="scroll"><table><thead>{head}</thead><tbody id="rows">{body}</tbody></table>'
        "</div>"
    )


def _options(name: str, every: str, values: Iterable[tuple[str, str]]) -> str:
    choices = "".join(f'<option value="{_e(v)}">{_e(text)}</option>' for v, text in values)
    return f'<select name="{name}"><option value="">{every}</option>{choices}</select>'


def _filters(rows: Sequence[Row]) -> str:
    ops = [(op, op) for op in dict.fromkeys(r.op for r in rows)]
    dtypes = [(dtype, dtype) for dtype in dict.fromkeys(r.dtype for r in rows)]
    verdicts = (("good", "faster"), ("even", "even"), ("bad", "slower"))
    return (
        '<form name="filters" hidden>'
        + _options("op", "every op", ops)
        + _options("dtype", "every dtype", dtypes)
        + _options("verdict", "faster and slower", verdicts)
        + '<input name="text" type="search" placeholder="text in the row">'
        '<span id="count" class="note"></span></form>'
    )


def _summary(rows: Sequence[Row]) -> str:
    """Per operator: how many rows, and the geometric mean, least and greatest ratio."""
    by_op: dict[str, list[Row]] = {}
    for row in rows:
        by_op.setdefault(row.op, []).append(row)
    lines = []
    for op, found in by_op.items():
        ratios = [r.ratio for r in found]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        shares = [r.limit_share for r in found]
        lines.append(
            (
                op,
                str(len(found)),
                str(sum(_verdict(r) == "good" for r in found)),
                f"{mean:.2f}x",
                f"{min(ratios):.2f}x - {max(ratios):.2f}x",
                f"{100 * min(shares):.0f}% - {100 * max(shares):.0f}%",
            )
        )
    header = ("op", "rows", "faster", "geometric mean", "range", "of limit")
    return _table(header, lines, numeric=range(1, 6))


def _table(
    header: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = ()
) -> str:
    def line(tag: str, texts: Sequence[str]) -> str:
        cells = (
            f"<{tag}{' class=n' if i in numeric else ''}>{_e(t)}</{tag}>"
            for i, t in enumerate(texts)
        )
        return f"<tr>{''.join(cells)}</tr>"

    body = "".join(line("td", r) for r in rows)
    return f'<div class="scroll"><table>{line("th", header)}{body}</table></div>'


def _limits(record: Record) -> str:
    items = "".join(
        f"<li>{_e(name)}<b>{_e(tables.rate_text(name, rate))}</b>"
        f"<small>{_e(record.limit_variants.get(name, 'memory'))}</small></li>"
        for name, rate in record.limits.items()
    )
    return f'<ul class="limits">{items}</ul>'


def page(record: Record) -> str:
    """The whole document."""
    dropped = sum(r.dropped for r in record.rows)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>KernelPyTorch benchmarks</title><style>{_STYLE}</style></head><body>",
        "<h1>KernelPyTorch against PyTorch</h1>",
        f"<p class=note>{_e(tables.machine_text(record.machine))}.<br>"
        f"{_e(tables.versions_text(record))}.</p>",
        "<h2>The machine's limits, measured in the same run</h2>",
        _limits(record),
    ]
    if record.rows:
        parts += [
            "<h2>By operator</h2>",
            _summary(record.rows),
            "<h2>Every row</h2><p class=note>Ratio: PyTorch's time over ours, the median of "
            "interleaved pairs with its 95% interval; right of 1x is faster. Of limit: the least "
            "time that the measured arithmetic or bandwidth allows, over ours. Inputs lie in "
            "memory, beyond the last-level cache, unless the row says otherwise. Point at a row "
            f"for more. {dropped} pairs were dropped because a core was lost next to them.</p>",
            _filters(record.rows),
            _rows(record.rows),
        ]
    if record.overhead:
        parts += [
            "<h2>Cost of a call</h2><p class=note>Whole calls on tensors of a few numbers; of "
            "them the kernel alone; and PyTorch's.</p>",
            _table(
                ("KPT", "call", "its kernel", "PyTorch", "call"),
                [tables.overhead_row(o) for o in record.overhead],
                numeric=(1, 2, 4),
            ),
        ]
    if record.skipped:
        parts += ["<h2>Not run</h2>", _table(("row", "why"), list(record.skipped.items()))]
    if record.rows:
        parts.append(f"<script>{_SCRIPT}</script>")
    return "\n".join(parts) + "</body></html>\n"
