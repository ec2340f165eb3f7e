"""``kpt validate``: signs off a machine."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kernel_pytorch.cli.command import Json
from kernel_pytorch.cli.exits import Exit

if TYPE_CHECKING:
    from kernel_pytorch.bench.record import Record
    from kernel_pytorch.cli.output import Output
    from kernel_pytorch.validation.machine import MachineReport

__all__ = ["validate"]


class _Level(str, enum.Enum):
    MINIMAL = "minimal"
    STANDARD = "standard"
    STRICT = "strict"
    COMPREHENSIVE = "comprehensive"


def validate(
    level: Annotated[
        _Level,
        typer.Option(help="1, 3, 12 or all of each operator's cases, in every dtype."),
    ] = _Level.STANDARD,
    op: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this operator (repeatable).")
    ] = None,
    speed: Annotated[
        bool, typer.Option(help="Measure speeds too: the benchmark's rows that were set a goal.")
    ] = True,
    seconds: Annotated[
        float, typer.Option(min=0.01, metavar="S", help="To spend about, on each row's speed.")
    ] = 0.3,
    json: Json = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report as a page here.")
    ] = None,
) -> None:
    """Signs off this machine: what runs for every operator on every backend, and how exactly.

    Every operator is held to its error bound against float64, in every dtype, on every device that
    is here. A kernel that ran is native, PyTorch in its place a fallback, an absent device skipped.
    Exits with 1 when a bound is broken, a device computes wrong, or kernels do not load.
    """
    from kernel_pytorch.cli.output import Output, Progress, usage_errors

    output = Output(json, html=html)
    with Progress(output, "importing PyTorch") as progress:
        from kernel_pytorch.bench.run import Options, run, select
        from kernel_pytorch.validation.machine import validate_machine
        from kernel_pytorch.validation.report import ValidationLevel

        options = Options(ops=tuple(op or ()), suite="cpu", seconds=seconds, overhead=False)

        def measured() -> Record:
            return run(options, lambda i, n, text: progress.say(f"[{i}/{n}] {text}"))

        with usage_errors():
            # An operator whose rows have no goal has no row here.
            wanted = measured if speed and select(options) else None
            report = validate_machine(
                ValidationLevel(level.value), ops=tuple(op or ()), speed=wanted, say=progress.say
            )
    _show(output, report)
    if html is not None:
        output.write(html, report.to_html())
    code = Exit.FINDING if report.failures else Exit.OK
    output.finish(report.to_dict() | {"exit_code": int(code)})
    for failure in report.failures:
        output.warn(failure)
    raise typer.Exit(int(code))


def _show(output: Output, report: MachineReport) -> None:
    from rich.table import Table
    from rich.text import Text

    from kernel_pytorch.bench import tables
    from kernel_pytorch.validation.machine import BACKENDS, ERRORS, error_cells, words

    out = output.out
    for name, value in report.environment.items():
        out.print(Text(f"{name}: {value}"))
    styles = {"native": "green", "failed": "bold red", "skipped": "dim"}
    runs = Table(box=None, pad_edge=False, header_style="bold", title="what runs")
    for title in ("operator", *BACKENDS):
        runs.add_column(title)
    for name, found in report.table().items():
        cells = [words(found[b]) for b in BACKENDS]
        runs.add_row(name, *(Text(c, style=styles.get(c, "yellow")) for c in cells))
    errors = Table(box=None, pad_edge=False, header_style="bold", title="errors against float64")
    for i, title in enumerate(ERRORS):
        errors.add_column(title, justify="right" if i in (3, 4, 5, 6) else "left", overflow="fold")
    for result in report.kernels:
        if result.error is not None:
            errors.add_row(*error_cells(result))
    shown = [runs, errors]
    if report.speed is not None:
        speeds = Table(box=None, pad_edge=False, header_style="bold", title="speed")
        columns = [i for i, name in enumerate(tables.HEADER) if name not in ("goal", "variant")]
        for i in columns:
            speeds.add_column(tables.HEADER[i], justify="right" if i > 2 else "left")
        for row in report.speed.rows:
            cells_ = tables.cells(row)
            speeds.add_row(*(cells_[i] for i in columns))
        shown.append(speeds)
    for table in shown:
        out.print()
        out.print(table)
    counts = ", ".join(
        f"{report.count(name)} {name}" for name in ("native", "fallback", "failed", "skipped")
    )
    out.print()
    out.print(f"{counts} (an operator in one dtype on one backend each)")
    verdict = "not signed off" if report.failures else "signed off"
    out.print(Text(verdict, style="bold red" if report.failures else "bold green"))
