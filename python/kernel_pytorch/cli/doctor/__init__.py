"""The checks of ``kpt doctor``, by area; each is a function that returns its findings.

No check starts a GPU, and none needs PyTorch to be installed: what cannot be found out without it
is left out, and that it is missing is a finding.
"""

from __future__ import annotations

from kernel_pytorch.cli import former

__all__ = ["DoctorCommand", "main"]


class DoctorCommand(former.FormerCommand):
    """``kpt doctor`` for a program with an argparse of its own."""

    command, name = "doctor", "doctor"


def main() -> int:
    """``kpt-doctor``, as earlier versions called ``kpt doctor``: runs it with the process's
    arguments; returns the exit code."""
    return former.run("doctor")
