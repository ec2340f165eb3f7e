"""The entry points of earlier versions: ``kpt-optimize``, ``kpt-benchmark``, ``kpt-doctor``.

Each is a command of ``kpt``; options that had other names there are still understood.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from kernel_pytorch.cli import main

__all__ = ["run"]

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
_SWITCHES = {"bench": {"--quick": ["--seconds", "0.2"]}}


def run(command: str, args: Sequence[str] | None = None) -> int:
    """Runs ``kpt command`` with ``args`` (default: the process's own); returns the exit code."""
    left = list(sys.argv[1:] if args is None else args)
    given = [command]
    while left:
        arg = left.pop(0)
        name, joined, value = arg.partition("=")
        renamed = _RENAMED[command].get(name)
        if arg in _SWITCHES.get(command, {}):
            given += _SWITCHES[command][arg]
        elif renamed is not None and (joined or left):
            given += renamed(value if joined else left.pop(0))
        else:
            given.append(arg)
    return main(given)
