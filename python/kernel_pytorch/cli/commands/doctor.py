"""``kpt doctor``: is this machine set up well?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from kernel_pytorch.cli.command import Json
from kernel_pytorch.cli.exits import Exit

if TYPE_CHECKING:
    from kernel_pytorch.cli.doctor.finding import Finding
    from kernel_pytorch.cli.output import Output

__all__ = ["doctor"]


def doctor(
    json: Json = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 for advice too, not for problems alone.")
    ] = False,
) -> None:
    """Says whether this machine is set up well, and how to fix what is not.

    Looks at PyTorch, the compiled kernels, the CPU's instruction sets, threads, the cost of new
    memory (measured), accelerators and their drivers (none is started). Each finding comes with the
    command that fixes it. Exits with 1 when there is a problem.
    """
    from kernel_pytorch._version import __version__
    from kernel_pytorch.cli.doctor import (
        cuda_kernels,
        drivers,
        hardware,
        memory,
        processor,
        software,
        threads,
    )
    from kernel_pytorch.cli.doctor.finding import Status
    from kernel_pytorch.cli.output import Output, Progress

    output = Output(json)
    with Progress(output, "looking at this machine") as progress:
        # First what does not need torch: importing it changes the environment of child processes.
        costs = memory.check(progress.say)
        progress.say("looking for GPU drivers")
        findings = software.check(progress.say)
        vendors = drivers.check()
        gpus = sum(len(f.data["gpus"]) for f in vendors if f.name == "NVIDIA")
        findings += processor.check() + threads.check() + costs + hardware.check() + vendors
        findings += cuda_kernels.check(gpus)
    problems = [f for f in findings if f.status is Status.PROBLEM]
    bad = problems or (strict and any(f.status is Status.ADVICE for f in findings))
    code = Exit.FINDING if bad else Exit.OK
    _show(output, findings)
    output.finish(
        {
            "kernel_pytorch": __version__,
            "exit_code": int(code),
            "problems": len(problems),
            "findings": [f.to_dict() for f in findings],
        }
    )
    raise typer.Exit(int(code))


def _show(output: Output, findings: Sequence[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    from kernel_pytorch.cli.doctor.finding import Status

    styles = {Status.OK: "green", Status.ADVICE: "yellow", Status.PROBLEM: "bold red"}
    out = output.out
    table = Table(box=None, pad_edge=False, show_header=False)
    for options in ({"no_wrap": True}, {"no_wrap": True}, {"overflow": "fold"}):
        table.add_column(**options)
    area = ""
    for finding in findings:
        if finding.area != area:
            if area:
                table.add_row()
            area = finding.area
            table.add_row("", Text(area, style="bold"))
        mark = Text(finding.status.value, style=styles[finding.status])
        table.add_row(mark, Text(finding.name), Text(finding.value))
    out.print(table)
    wanting = [f for f in findings if f.status is not Status.OK]
    for finding in sorted(wanting, key=lambda f: f.status is Status.ADVICE):
        out.print()
        out.print(
            Text(finding.status.value, style=styles[finding.status])
            + Text(f" {finding.area}, {finding.name}: {finding.value}", style="bold")
        )
        out.print(Text(finding.why))
        if finding.fix:
            # In one line however long, so that it can be copied.
            out.print(Text(f"  {finding.fix}", style="cyan"), soft_wrap=True)
    counts = [sum(f.status is s for f in findings) for s in (Status.PROBLEM, Status.ADVICE)]
    out.print()
    out.print(Text(f"{_count(counts[0], 'problem')}, {_count(counts[1], 'piece')} of advice"))


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
