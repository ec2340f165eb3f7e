"""``kpt config``: what holds, where each value comes from, and what cannot hold here."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from kernel_pytorch.cli.command import Json
from kernel_pytorch.cli.exits import Exit

__all__ = ["config"]


class Preset(str, enum.Enum):
    """The presets, by name."""

    INFERENCE = "inference"
    TRAINING = "training"
    DEVELOPMENT = "development"


def config(
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="A .toml or .json file with values."),
    ] = None,
    preset: Annotated[Preset | None, typer.Option(help="A starting point.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A value: hardware.backend=cpu. Repeat."),
    ] = None,
    all: Annotated[
        bool, typer.Option("--all", help="Show defaults too, not only what was set.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write all values to a .toml or .json file."
        ),
    ] = None,
    json: Json = None,
) -> None:
    """Shows the configuration: values, where each comes from, and what contradicts the hardware.

    A preset, a file (or KPT_CONFIG_FILE), the environment (KPT_CONFIG__PRECISION__FP8_ENABLED=1)
    and --set set values, the later before the earlier. Exits with 1 when a value cannot hold on the
    hardware it is set for.
    """
    from rich.table import Table

    from kernel_pytorch.cli.exits import CliError
    from kernel_pytorch.cli.output import Output
    from kernel_pytorch.core.config import KernelPyTorchConfig, parse_assignments
    from kernel_pytorch.core.errors import ConfigValidationError

    out = Output(json, output=output)
    try:
        found = KernelPyTorchConfig.load(
            file,
            preset=preset.value if preset else None,
            assignments=parse_assignments(assignments or []),
        )
        if output is not None:
            found.save(output)
    except ConfigValidationError as error:
        raise CliError(str(error), Exit.USAGE) from error
    except OSError as error:
        raise CliError(f"{output}: {error.strerror}", Exit.CANNOT_WRITE) from error
    table = Table(box=None, pad_edge=False)
    for name in ("key", "value", "from"):
        table.add_column(name, overflow="fold")
    values = found.to_dict()
    for key in KernelPyTorchConfig.leaves():
        origin = found.origin(key)
        value = values
        for part in key.split("."):
            value = value[part]
        if all or origin != "default":
            table.add_row(key, str(value), origin)
    if table.row_count:
        out.out.print(table)
    else:
        out.out.print("every value is the default; --all shows them")
    conflicts = found.conflicts()
    for conflict in conflicts:
        out.warn(conflict)
    code = Exit.FINDING if conflicts else Exit.OK
    out.finish(
        {
            "exit_code": int(code),
            "config": values,
            "origins": {
                key: found.origin(key)
                for key in KernelPyTorchConfig.leaves()
                if found.origin(key) != "default"
            },
            "conflicts": conflicts,
        }
    )
    raise typer.Exit(int(code))
