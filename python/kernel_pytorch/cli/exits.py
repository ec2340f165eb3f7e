"""Exit codes: what each means, and which one an exception becomes."""

from __future__ import annotations

import enum

from kernel_pytorch.core.errors import KernelPyTorchError, StrictModeError

__all__ = ["MEANINGS", "CliError", "Exit", "as_cli_error"]


class Exit(enum.IntEnum):
    """The exit codes of ``kpt``."""

    OK = 0
    FINDING = 1
    USAGE = 2
    UNAVAILABLE = 3
    CANNOT_WRITE = 4
    BUG = 70
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


MEANINGS = {
    Exit.OK: "done, nothing to report",
    Exit.FINDING: "done, with a finding: a problem (doctor), a promise not kept (demo), a row that "
    "did not run or missed its bound (bench), a regression (compare), a machine that is not signed "
    "off (validate), a reference in strict mode (optimize)",
    Exit.USAGE: "the command line makes no sense; the message says why",
    Exit.UNAVAILABLE: "something needed is missing or cannot be read: PyTorch, the compiled "
    "module, a model, its weights, memory",
    Exit.CANNOT_WRITE: "the output cannot be written; nothing was left behind",
    Exit.BUG: "an error of kpt itself, with its traceback",
    Exit.INTERRUPTED: "interrupted (Ctrl-C); nothing was left behind; bench shows the rows it has",
    Exit.BROKEN_PIPE: "the reader of the output went away (kpt ops | head)",
    Exit.TERMINATED: "terminated (SIGTERM); nothing was left behind",
}
"""What each code means, for ``kpt --help``."""


class CliError(Exception):
    """An error that the user can do something about: a message, and the exit code."""

    def __init__(self, message: str, code: Exit = Exit.UNAVAILABLE) -> None:
        super().__init__(message)
        self.code = code


# Packages that commands import when they run, and what installs them.
_PACKAGES = {
    "torch": "pip install 'torch>=2.11'",
    "safetensors": "pip install safetensors",
    "transformers": "pip install 'kernel_pytorch[hf]'",
}


def as_cli_error(error: BaseException) -> CliError | None:
    """The message and exit code for an exception; None for one that is a bug."""
    if isinstance(error, CliError):
        return error
    if isinstance(error, StrictModeError):
        return CliError(str(error), Exit.FINDING)
    if isinstance(error, KernelPyTorchError):
        # What the package raises as an OSError is about writing (SaveError).
        code = Exit.CANNOT_WRITE if isinstance(error, OSError) else Exit.UNAVAILABLE
        return CliError(str(error), code)
    if isinstance(error, ModuleNotFoundError) and error.name in _PACKAGES:
        return CliError(f"{error.name} is not installed: {_PACKAGES[error.name]}")
    if isinstance(error, ImportError):
        return CliError(f"{error}; `kpt doctor` may say how to mend that")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return CliError(f"not enough memory: {error}".removesuffix(": "))
    return None
