"""``kpt-benchmark``, as earlier versions called ``kpt bench``; ``python -m`` works too."""

from __future__ import annotations

import sys

from kernel_pytorch.cli import former

__all__ = ["BenchmarkCommand", "main"]


class BenchmarkCommand(former.FormerCommand):
    """``kpt bench`` for a program with an argparse of its own."""

    command, name = "bench", "benchmark"


def main() -> int:
    """Runs ``kpt bench`` with the process's arguments; returns the exit code."""
    return former.run("bench")


if __name__ == "__main__":
    sys.exit(main())
