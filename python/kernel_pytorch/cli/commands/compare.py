"""``kpt compare``: what became slower between two sets of runs; the exit code is for CI."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from kernel_pytorch.cli.command import Json
from kernel_pytorch.cli.exits import CliError, Exit

if TYPE_CHECKING:
    from kernel_pytorch.cli.output import Output
    from kernel_pytorch.core.comparison import Comparison, Measured
    from kernel_pytorch.core.performance_store import PerformanceStore

    _Store: TypeAlias = Callable[[], PerformanceStore]

__all__ = ["compare"]

_SET = (
    "A record of `kpt bench --json=FILE`, a store's file, or runs in the store: a commit (its "
    "beginning will do), `baseline` or `latest`."
)
_SQLITE = b"SQLite format 3\x00"


class _Severity(str, enum.Enum):
    MINOR = "minor"
    MODERATE = "moderate"
    SEVERE = "severe"


def compare(
    before: Annotated[str, typer.Argument(metavar="A", help=_SET, show_default=False)],
    after: Annotated[
        str, typer.Argument(metavar="B", help="The same, for what came later.", show_default=False)
    ],
    fail_on: Annotated[
        _Severity,
        typer.Option(help="Exit with 1 for this and worse: by 2%, 10%, 25% at least."),
    ] = _Severity.MINOR,
    match: Annotated[
        str, typer.Option(metavar="TEXT", help="Only what has this text in its name.")
    ] = "",
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The store that A and B name runs of (default: KPT_PERFORMANCE_STORE, or "
            "~/.kernel_pytorch/performance.sqlite3).",
        ),
    ] = None,
    json: Json = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the comparison as a page here.")
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the store's runs over time, plotted, as a page."),
    ] = None,
) -> None:
    """Compares runs of models and operators; exits with 1 when something became slower.

    Slower means that the whole 99% interval lies beyond the other's, in seconds and relative to
    the reference that was measured in the same minutes. Runs that were disturbed by other
    processes are not judged; when nothing can be, the exit code is 3.
    """
    from kernel_pytorch.cli.output import Output, Progress

    output = Output(json, html=html, history=history)
    with Progress(output, "reading runs"):
        from kernel_pytorch.core import comparison
        from kernel_pytorch.core.performance_history import history_page
        from kernel_pytorch.core.performance_store import PerformanceStore
        from kernel_pytorch.core.regression import RegressionSeverity

        # Two files are compared without it, so it is opened when something asks for it.
        runs = functools.cache(lambda: PerformanceStore(store))
        found = comparison.compare(
            _chosen(before, runs, match), _chosen(after, runs, match), (before, after)
        )
    if not found.pairs:
        raise CliError(
            f"{before} and {after} have nothing in common"
            + (f" that has {match!r} in its name" if match else "")
        )
    _show(output, found)
    if html is not None:
        output.write(html, found.to_html())
    if history is not None:
        output.write(history, history_page(list(reversed(runs().find()))))
    slower = found.regressions(RegressionSeverity(fail_on.value))
    code = Exit.FINDING if slower else Exit.OK if found.judged else Exit.UNAVAILABLE
    output.finish(found.to_dict() | {"exit_code": int(code), "regressions": len(slower)})
    if slower:
        output.warn("slower: " + ", ".join(f"{p.title} ({p.severity.value})" for p in slower))
    elif not found.judged:
        output.warn("nothing could be judged: measure again on an idle machine")
    raise typer.Exit(int(code))


def _chosen(name: str, store: _Store, match: str) -> dict[str, list[Measured]]:
    found = _found(name, store)
    return {s: runs for s, runs in found.items() if match in runs[0].title}


def _found(name: str, store: _Store) -> dict[str, list[Measured]]:
    """The runs that ``name`` means, by subject."""
    from kernel_pytorch.core.comparison import Measured, measured
    from kernel_pytorch.core.performance_store import PerformanceStore

    path = Path(name)
    if path.is_file():
        with open(path, "rb") as file:
            if file.read(len(_SQLITE)) == _SQLITE:
                return measured(PerformanceStore(path).find())
        return _record(path)
    if path.suffix or "/" in name:
        raise CliError(f"{name}: no such file")
    if name == "latest":
        runs = store().find()
    elif name == "baseline":
        firsts: dict[str, list[Measured]] = {}
        for run in (*reversed(store().find(pinned=True)), *reversed(store().find())):
            one = Measured.of(run)
            firsts.setdefault(one.subject, [one])
        return firsts
    else:
        runs = store().find(commit=name)
    if not runs:
        commits = sorted({r.commit for r in store().find() if r.commit})
        there = f"it has {', '.join(commits)}" if commits else "it has none"
        raise CliError(f"{name}: no file, and no runs of such a commit in {store().path}; {there}")
    return measured(runs)


def _record(path: Path) -> dict[str, list[Measured]]:
    from kernel_pytorch.bench.record import Record
    from kernel_pytorch.bench.tracking import measured_rows

    try:
        return measured_rows(Record.read(path))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CliError(f"{path}: no record of `kpt bench --json` and no store: {error}") from error


def _show(output: Output, found: Comparison) -> None:
    from rich.table import Table
    from rich.text import Text

    from kernel_pytorch.core.comparison import Verdict

    styles = {Verdict.SLOWER: "red", Verdict.FASTER: "green", Verdict.UNKNOWN: "yellow"}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, title in enumerate(found.HEADER):
        table.add_column(title, justify="right" if i in (1, 2, 3, 4) else "left", overflow="fold")
    for pair in found.pairs:
        *cells, verdict = pair.cells()
        table.add_row(*cells, Text(verdict, style=styles.get(pair.verdict, "")))
    output.out.print(table)
    for name, titles in (("before", found.only_before), ("after", found.only_after)):
        if titles:
            output.say(f"only {name}: {', '.join(titles)}")
