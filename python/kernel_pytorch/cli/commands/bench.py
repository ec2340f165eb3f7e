"""``kpt bench``: every operator against PyTorch, in one process, against the machine's limits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kernel_pytorch.cli.command import Json
from kernel_pytorch.cli.exits import CliError, Exit

if TYPE_CHECKING:
    from kernel_pytorch.bench.record import Record, Row
    from kernel_pytorch.bench.run import Options
    from kernel_pytorch.cli.output import Output
    from kernel_pytorch.core.performance_store import PerformanceMetrics

__all__ = ["bench"]

_NARROW = 110
_SHORT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def bench(
    op: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this operator's rows (repeatable)."),
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this family (repeatable).")
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(metavar="DTYPE", help="Only this dtype, as bfloat16 or bf16 (repeatable)."),
    ] = None,
    match: Annotated[
        str, typer.Option(metavar="TEXT", help="Only rows whose shape contains this text.")
    ] = "",
    suite: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Only rows that were set a goal: cpu. Tells which were reached."
        ),
    ] = "",
    rows: Annotated[
        bool, typer.Option("--list", help="Names the rows that would run, and ends.")
    ] = False,
    hot: Annotated[
        bool,
        typer.Option("--hot", help="Inputs stay in the caches (default: larger than they are)."),
    ] = False,
    seconds: Annotated[
        float, typer.Option(min=0.01, metavar="S", help="To spend about, on each row's comparison.")
    ] = 2.0,
    threads: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Threads for both sides (default: PyTorch's)."),
    ] = None,
    overhead: Annotated[
        bool, typer.Option(help="Measure the cost of a call too, when no row is left out.")
    ] = True,
    fail_below: Annotated[
        float | None,
        typer.Option(
            metavar="RATIO",
            help="Exit with 1 when a row's whole interval of ratios lies below this.",
        ),
    ] = None,
    store: Annotated[
        bool,
        typer.Option(
            help="Keep all samples for `kpt compare`, in the file that KPT_PERFORMANCE_STORE names "
            "(default: ~/.kernel_pytorch/performance.sqlite3)."
        ),
    ] = True,
    json: Json = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with plots and filters here.")
    ] = None,
) -> None:
    """Times every operator against what PyTorch users write today.

    Both sides run interleaved in one process; the ratio is the median of paired samples with its
    95% interval, the share is that of the machine's own limits, measured next to each row. Exits
    with 1 when a row could not run, or missed --fail-below. Ctrl-C shows the rows measured so far.
    """
    from kernel_pytorch.cli.output import Output, Progress, usage_errors

    output = Output(json, html=html)
    with Progress(output, "importing PyTorch") as progress:
        from kernel_pytorch.bench.page import page
        from kernel_pytorch.bench.run import Options, run

        options = Options(
            ops=tuple(op or ()),
            families=tuple(family or ()),
            dtypes=tuple(_SHORT.get(d, d) for d in dtype or ()),
            match=match,
            suite=suite,
            hot=hot,
            seconds=seconds,
            overhead=overhead,
            threads=threads,
        )
        if not rows:
            _warn(output)
            keep = _keeper(output) if store else lambda run: None
            with usage_errors():
                record = run(options, lambda i, n, text: progress.say(f"[{i}/{n}] {text}"), keep)
    if rows:
        _list(output, options)
        return
    _show(output, record)
    if html is not None:
        output.write(html, page(record))
    output.finish(record.to_json())
    slow = [r for r in record.rows if fail_below is not None and r.ratio_high < fail_below]
    if slow:
        names = ", ".join(f"{r.op} {r.name} {r.dtype} ({r.ratio:.2f}x)" for r in slow)
        output.warn(f"below {fail_below:g}x: {names}")
    if record.interrupted:
        output.warn("interrupted: the rows that had not begun are missing")
        raise typer.Exit(int(Exit.INTERRUPTED))
    if slow or record.skipped:
        raise typer.Exit(int(Exit.FINDING))


def _keeper(output: Output) -> Callable[[PerformanceMetrics], None]:
    """Writes runs to the store; a store that cannot be used costs a warning and no measurement."""
    from kernel_pytorch.core.performance_store import PerformanceStore, StoreError

    stores: list[PerformanceStore] = []
    try:
        stores.append(PerformanceStore())
    except StoreError as error:
        output.warn(f"samples are not kept: {error}")

    def keep(run: PerformanceMetrics) -> None:
        try:
            for store in stores:
                store.add(run)
        except StoreError as error:
            stores.clear()
            output.warn(f"samples are not kept: {error}")

    return keep


def _warn(output: Output) -> None:
    """Says what would make the numbers differ from those that users get."""
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive":
        output.warn(
            "OMP_WAIT_POLICY=passive lets threads sleep between kernels, which adds tens of "
            "microseconds to every call of both sides; unset it to see what users get"
        )
    cores = len(os.sched_getaffinity(0))
    if (load := os.getloadavg()[0]) > 0.5 + cores / 2:
        output.warn(f"{load:.1f} processes are running on {cores} cores: times will be unsteady")


def _list(output: Output, options: Options) -> None:
    from kernel_pytorch.bench.run import select
    from kernel_pytorch.cli.output import usage_errors

    with usage_errors():
        found = select(options)
    if not found:
        raise CliError("no benchmark passes the filters", Exit.USAGE)
    names = [(s.name, b.name, str(b.dtype).removeprefix("torch.")) for s, b in found]
    for name in names:
        output.out.print("  ".join(name), markup=False, soft_wrap=True)
    output.finish({"rows": [dict(zip(("op", "name", "dtype"), name)) for name in names]})


def _show(output: Output, record: Record) -> None:
    from rich.text import Text

    from kernel_pytorch.bench import tables

    out = output.out
    out.print(Text(f"{tables.machine_text(record.machine)}."))
    out.print(Text(f"{tables.versions_text(record)}."))
    out.print(Text(f"Limits, measured in this run: {tables.limit_text(record)}."))
    out.print()
    out.print(_rows(record.rows, wide=out.width >= _NARROW))
    goals = [row for row in record.rows if row.met is not None]
    if goals:
        out.print()
        out.print(f"Goals: {sum(r.met is True for r in goals)} of {len(goals)} rows met theirs.")
        for text in tables.missed_texts(goals):
            out.print(Text(f"Missed: {text}"))
    if record.overhead:
        out.print()
        out.print(_overhead(record))
    for name, why in record.skipped.items():
        output.warn(f"did not run: {name}: {why}")


def _rows(rows: list[Row], wide: bool) -> object:
    from rich.table import Table
    from rich.text import Text

    from kernel_pytorch.bench import tables

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    left = ("op", "shape", "dtype", "goal", "variant")
    has_goals = any(row.met is not None for row in rows)
    hidden = {"goal"} if not has_goals else set()
    if not wide:
        # The interval gives way to the goal.
        hidden |= {"op", "variant"} | ({"95% interval"} if has_goals else set())
    shown = [i for i, name in enumerate(tables.HEADER) if name not in hidden]
    short = {long: name for name, long in _SHORT.items()}
    for name in (tables.HEADER[i] for i in shown):
        # Where space is scarce, words wrap and numbers do not.
        table.add_column(
            name,
            justify="left" if name in left else "right",
            no_wrap=name not in ("shape", "goal", "variant"),
            overflow="fold",
        )
    before = ""
    for row in rows:
        cells: list[str | Text] = list(tables.cells(row))
        cells[2] = short.get(row.dtype, row.dtype)
        style = "green" if row.ratio_low > 1 else "red" if row.ratio_high < 1 else ""
        cells[5] = Text(str(cells[5]), style=style)
        if row.met is False:
            cells[8] = Text(str(cells[8]), style="red")
        if not wide and row.op != before:
            table.add_row(Text(row.op, style="bold"))
        if not wide:
            cells[7] = f"{100 * row.limit_share:.0f}%"
        before = row.op
        table.add_row(*(cells[i] for i in shown))
    return table


def _overhead(record: Record) -> object:
    from rich.table import Table

    from kernel_pytorch.bench import tables

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("cost of a call")
    table.add_column("KPT", justify="right")
    table.add_column("its kernel", justify="right")
    table.add_column("")
    table.add_column("PyTorch", justify="right")
    for item in record.overhead:
        table.add_row(*tables.overhead_row(item))
    return table
