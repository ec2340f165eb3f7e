"""The application ``kpt``: its commands and its help."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kernel_pytorch._version import __version__
from kernel_pytorch.cli.command import Command
from kernel_pytorch.cli.commands import bench, compare, config, demo, doctor, model, ops, validate
from kernel_pytorch.cli.exits import MEANINGS

__all__ = ["app"]


_HELP = ("-h", "--help")


class _Group(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # A command's help needs no value of any option; to convert them, typer loads pydantic.
        command = self.commands.get(args[0]) if args else None
        if command is not None and not set(_HELP).isdisjoint(args[1:]):
            print(command.get_help(typer.Context(command, parent=ctx, info_name=args[0])))
            raise typer.Exit
        rest: list[str] = super().parse_args(ctx, args)
        return rest

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
    context_settings={"help_option_names": list(_HELP)},
)
for _function, _short in {
    demo.demo: "A real model, before and after.",
    doctor.doctor: "Whether this machine is set up well.",
    ops.ops: "The operators, and what runs for each.",
    model.plan: "What optimizing a model would bring.",
    model.optimize: "Makes a model faster, and writes it.",
    bench.bench: "Every operator against PyTorch.",
    config.config: "The configuration, and what set it.",
    validate.validate: "Signs off this machine.",
    compare.compare: "What became slower, for CI.",
}.items():
    app.command(_function.__name__, cls=Command, short_help=_short)(_function)


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
