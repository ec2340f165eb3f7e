"""The command line ``kpt``; :func:`main` is its entry.

Importing this imports neither torch nor the commands: each command imports what it needs when it
runs, so that help appears at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

__all__ = ["BenchmarkCommand", "DoctorCommand", "OptimizeCommand", "app", "main"]

_FORMER = {
    "BenchmarkCommand": "benchmark",
    "DoctorCommand": "doctor",
    "OptimizeCommand": "optimize",
}


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line ``args`` (default: the process's own) and returns the exit code."""
    from kernel_pytorch.cli.application import app

    try:
        app(args=None if args is None else list(args), prog_name="kpt")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    return 0


def __getattr__(name: str) -> Any:
    # The typer application itself, for what documents or tests it.
    if name == "app":
        from kernel_pytorch.cli.application import app

        return app
    if name in _FORMER:
        return getattr(importlib.import_module(f"{__name__}.{_FORMER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
