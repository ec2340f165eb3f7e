"""What every command has in common: ``--json[=FILE]``, and errors without tracebacks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from kernel_pytorch.cli.exits import CliError, Exit, as_cli_error

__all__ = ["STDOUT", "Command", "Json"]

STDOUT = "-"
"""The file name that means standard output."""

Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="[=FILE]",
        help="JSON instead of the table; to FILE: beside the table.",
        show_default=False,
    ),
]
"""The type of every command's ``json`` parameter: None, :data:`STDOUT` or a file's name."""


class Command(TyperCommand):
    """A command whose ``--json`` may stand alone, and that ends with a message and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Gives a ``--json`` without a file the name :data:`STDOUT`. ``--json FILE`` is understood
        too where the command has no positional arguments that FILE could be."""
        positional = any(p.param_type_name == "argument" for p in self.params)
        given: list[str] = []
        for i, arg in enumerate(args):
            following = args[i + 1] if i + 1 < len(args) else "-"
            if arg == "--json" and (positional or following.startswith("-")):
                arg = f"--json={STDOUT}"
            given.append(arg)
        return super().parse_args(ctx, given)

    def invoke(self, ctx: Any) -> Any:
        try:
            with _no_interrupt_lost():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            error = CliError("interrupted; nothing was written", Exit.INTERRUPTED)
        except BrokenPipeError:
            # The reader (head, less) has seen enough; Python must not fail over it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(Exit.BROKEN_PIPE) from None
        except typer.Exit:
            raise
        except Exception as exception:
            found = as_cli_error(exception)
            if found is None:
                traceback.print_exc()
                found = CliError(
                    f"{type(exception).__name__}: {exception}\nThis is a bug in kpt: please "
                    "report it with the traceback above and the output of `kpt doctor --json`.",
                    Exit.BUG,
                )
            error = found
        if ctx.params.get("json") == STDOUT:
            print(json.dumps({"error": str(error), "exit_code": int(error.code)}))
        print(f"{ctx.command_path}: {error}", file=sys.stderr)
        raise typer.Exit(int(error.code))


@contextlib.contextmanager
def _no_interrupt_lost() -> Iterator[None]:
    """Within the block, a Ctrl-C that came while Python ran a callback which ignores exceptions
    (there are some during imports) comes again."""
    before = sys.unraisablehook

    def again(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            # Later and from outside: raised here it would be ignored too.
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            before(unraisable)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before
