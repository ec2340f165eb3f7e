"""The application ``kpt``: its commands and its help."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kernel_pytorch._version import __version__
from kernel_pytorch.cli.command import Command
from kernel_pytorch.cli.commands import bench, demo, doctor, model, ops
from kernel_pytorch.cli.exits import MEANINGS

__all__ = ["app"]


class _Group(TyperGroup):
    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code.value), text) for code, text in MEANINGS.items()])


# Plain help: rich's costs more time than all the rest of starting up.
app = typer.Typer(
    cls=_Group,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    # For documents made from this; --help lays the codes out by itself.
    epilog="**Exit codes**:\n\n"
    + "\n".join(f"* `{code.value}`: {text}" for code, text in MEANINGS.items()),
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _function in {
    "demo": demo.demo,
    "doctor": doctor.doctor,
    "ops": ops.ops,
    "plan": model.plan,
    "optimize": model.optimize,
    "bench": bench.bench,
}.items():
    app.command(_name, cls=Command)(_function)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"kpt (kernelpytorch) {__version__}")
        raise typer.Exit


@app.callback()
def _kpt(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    """KernelPyTorch: kernels for PyTorch models, measured on this machine.

    Start with `kpt doctor`, which says whether this machine is set up well, and `kpt demo`, which
    optimizes a real model. `kpt plan MODEL` and `kpt optimize MODEL` do that to yours.

    Every command prints a table for people and, with --json, the same as JSON. Results go to
    standard output, progress and warnings to standard error.
    """
