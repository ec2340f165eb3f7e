"""The latency of a model: samples, each beside one of a fixed piece of work on the same machine.

What else goes on - other processes, a falling clock - slows both alike, so their ratio says how
fast the model is where the seconds alone do not.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["Latency", "call_of", "measure_latency"]

REFERENCE = "mm 256x256x256 float32"
"""The fixed piece of work."""

_SIZE = 256
_SHORTEST = 5e-4
"""Seconds of a sample, at least: calls are repeated until then."""
_LONGEST_REFERENCE = 2e-2


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Samples in the order in which they were taken."""

    seconds: tuple[float, ...]
    """Of one call each."""
    reference: tuple[float, ...]
    """Seconds of the reference's unit of work, right before and after: their mean."""


def call_of(model: nn.Module, sample_inputs: Any) -> Callable[[], Any]:
    """A call of ``model`` without gradients; inputs are a tensor, a tuple or a mapping of names."""
    if not callable(model):
        raise TypeError(f"argument 'model' must be callable, got {type(model).__name__}")

    def call() -> Any:
        with torch.inference_mode():
            if isinstance(sample_inputs, Mapping):
                return model(**sample_inputs)
            if isinstance(sample_inputs, (tuple, list)):
                return model(*sample_inputs)
            return model(sample_inputs)

    return call


def measure_latency(
    call: Callable[[], Any],
    device: torch.device,
    *,
    samples: int = 100,
    warmup: int = 10,
    against: Callable[[], Any] | None = None,
) -> Latency:
    """Times ``call``, which leaves its work on ``device``, in turn with the reference: ``against``
    where it is given, else :data:`REFERENCE`.

    Raises ValueError for fewer than one sample or a negative warm-up.
    """
    if samples < 1:
        raise ValueError(f"argument 'num_iterations' must be at least 1, got {samples}")
    if warmup < 0:
        raise ValueError(f"argument 'warmup_iterations' must not be negative, got {warmup}")
    synchronize = _synchronizer(device)
    factor = torch.randn(_SIZE, _SIZE, device=device)
    product = torch.empty_like(factor)

    def fixed() -> None:
        torch.mm(factor, factor, out=product)

    unit: Callable[[], Any] = fixed

    if against is not None:
        unit = against
    for _ in range(warmup):
        call()
        if against is not None:
            against()
    once = _seconds(call, 1, synchronize)
    _seconds(unit, 3, synchronize)
    unit_once = min(_seconds(unit, 1, synchronize) for _ in range(3))
    repeats = max(1, math.ceil(_SHORTEST / max(once, 1e-9)))
    # About as long as a sample, so that both meet the same disturbances.
    units = max(1, round(min(max(once * repeats, _SHORTEST), _LONGEST_REFERENCE) / unit_once))
    seconds, around = [], [_seconds(unit, units, synchronize)]
    for _ in range(samples):
        seconds.append(_seconds(call, repeats, synchronize))
        around.append(_seconds(unit, units, synchronize))
    return Latency(
        seconds=tuple(seconds),
        reference=tuple((a + b) / 2 for a, b in itertools.pairwise(around)),
    )


def _seconds(call: Callable[[], Any], repeats: int, synchronize: Callable[[], None]) -> float:
    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize()
    return (time.perf_counter() - start) / repeats


def _synchronizer(device: torch.device) -> Callable[[], None]:
    """Waits for the device's work; nothing to do on the CPU."""
    if device.type in ("cpu", "meta"):
        return lambda: None
    module = torch.get_device_module(device)
    return lambda: module.synchronize(device)
