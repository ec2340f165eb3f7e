"""The CPU's own limits, measured: peak arithmetic rates and memory bandwidth."""

from __future__ import annotations

from typing import NamedTuple

import torch

from kernel_pytorch._native import load

__all__ = ["Probe", "memory", "peak"]


class Probe(NamedTuple):
    """One timed run of a probe loop on torch's threads."""

    variant: str
    """The loop that ran, for example "amx_bf16"."""
    seconds: float
    amount: float
    """Operations (multiplies and adds counted apart), or bytes read plus bytes written."""

    @property
    def rate(self) -> float:
        """Amount per second."""
        return self.amount / self.seconds


def peak(compute: str, iterations: int) -> Probe:
    """Runs ``iterations`` of the fastest multiply-add loop for "fp32", "bf16" or "int8" that the
    ISA level in use has.

    Raises ValueError for another ``compute`` or ``iterations`` below 1, and
    :class:`~kernel_pytorch.core.errors.NativeUnavailableError` without the native module.
    """
    return Probe(*load("cpu").probe_peak(compute, iterations))


def memory(
    source: torch.Tensor,
    target: torch.Tensor | None = None,
    *,
    streaming: bool = False,
    repeats: int = 1,
) -> Probe:
    """Reads the one-dimensional ``source`` ``repeats`` times, or copies it to ``target``.

    ``streaming`` writes past the caches. Both tensors are dense, of the same length, 64-byte
    aligned and hold at least 64 KiB a thread; otherwise ValueError.
    """
    return Probe(*load("cpu").probe_memory(target, source, streaming, repeats))
