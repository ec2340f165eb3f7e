"""``kpt-optimize``, as earlier versions called ``kpt optimize``; ``python -m`` works too."""

from __future__ import annotations

import sys

from kernel_pytorch.cli import former

__all__ = ["OptimizeCommand", "main"]


class OptimizeCommand(former.FormerCommand):
    """``kpt optimize`` for a program with an argparse of its own."""

    command, name = "optimize", "optimize"


def main() -> int:
    """Runs ``kpt optimize`` with the process's arguments; returns the exit code."""
    return former.run("optimize")


if __name__ == "__main__":
    sys.exit(main())
