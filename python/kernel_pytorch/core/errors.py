"""The exceptions this package raises beyond ValueError and TypeError."""

from __future__ import annotations

__all__ = ["KernelPyTorchError", "NativeUnavailableError", "StrictModeError"]


class KernelPyTorchError(Exception):
    """Base of every exception that is this package's own."""


class StrictModeError(KernelPyTorchError, RuntimeError):
    """Strict mode is on and a call had no native kernel; the message says why."""


class NativeUnavailableError(KernelPyTorchError, ImportError):
    """A compiled module is missing, does not load here, or belongs to another version."""
