"""The entry points of earlier versions: ``kpt-optimize``, ``kpt-benchmark``, ``kpt-doctor``, and
the classes that put them into another program's argparse.

Each is a command of ``kpt``; options that had other names there are still understood, and those
that mean nothing any more are named on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from kernel_pytorch.cli import main

__all__ = ["FormerCommand", "run"]

_Values = Callable[[str], list[str]]

# An option of old -> what its value becomes.
_OUTPUT: dict[str, _Values] = {
    "--output": lambda value: [f"--json={value}"],
    "-o": lambda value: [f"--json={value}"],
}
_RENAMED: dict[str, dict[str, _Values]] = {
    "optimize": {
        "--model": lambda value: [value],
        "--input-shape": lambda value: ["--input", f"float32[{value}]"],
    },
    "bench": _OUTPUT,
    "doctor": _OUTPUT,
}
# Options that take a value and have no counterpart, and why.
_GONE = {
    "optimize": {
        "--level": "every replacement is measured, and the fastest kept; see --precision",
        "--hardware": "the model's weights say where it runs",
    },
    "bench": {
        "--type": "bench times operators; kpt plan a model, kpt compare runs",
        "--model": "bench times operators; kpt plan MODEL times a model",
        "--levels": "bench times operators; kpt plan MODEL times a model",
        "--batch-sizes": "the operators' declarations have the sizes",
        "--predefined": "--family names operators that belong together",
    },
    "doctor": {"--category": "every check is made"},
}
_SWITCHES = {"bench": {"--quick": ["--seconds", "0.2"]}}


def run(command: str, args: Sequence[str] | None = None) -> int:
    """Runs ``kpt command`` with ``args`` (default: the process's own); returns the exit code."""
    left = list(sys.argv[1:] if args is None else args)
    given = [command]
    while left:
        arg = left.pop(0)
        name, joined, value = arg.partition("=")
        renamed = _RENAMED[command].get(name)
        if name in _GONE[command]:
            if not joined and left:
                left.pop(0)
            print(f"kpt {command}: {name}: {_GONE[command][name]}", file=sys.stderr)
        elif arg in _SWITCHES.get(command, {}):
            given += _SWITCHES[command][arg]
        elif renamed is not None and (joined or left):
            given += renamed(value if joined else left.pop(0))
        else:
            given.append(arg)
    return main(given)


class FormerCommand:
    """A command as a subparser of argparse, which hands everything on to ``kpt``."""

    command: str
    """Of ``kpt``."""
    name: str
    """What it was called."""

    @classmethod
    def register(cls, subparsers: Any) -> None:
        """Adds the command; its arguments are read by :meth:`execute`."""
        # What follows belongs to kpt, its options included: here they begin with no known prefix.
        parser = subparsers.add_parser(
            cls.name, help=f"as kpt {cls.command}", add_help=False, prefix_chars="\0"
        )
        parser.set_defaults(func=cls.execute)
        parser.add_argument("arguments", nargs="*")

    @classmethod
    def execute(cls, args: Any) -> int:
        """Runs the command with ``args.arguments``; returns the exit code."""
        return run(cls.command, args.arguments)
