"""What a call costs beyond its kernel: tensors so small that hardly anything else is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from kernel_pytorch.backends import cpu
from kernel_pytorch.bench.record import Overhead
from kernel_pytorch.core.stats import median

__all__ = ["measure_overhead"]

_CALLS = 40  # short enough to fit between two interruptions on a busy machine
_SAMPLES = 300
_SIZE = 8


def _seconds(calls: list[Callable[[], Any]]) -> list[float]:
    """Median seconds a call of each, interleaved."""
    samples: list[list[float]] = [[] for _ in calls]
    for _ in range(_SAMPLES):
        for call, times in zip(calls, samples):
            start = time.perf_counter_ns()
            for _ in range(_CALLS):
                call()
            times.append((time.perf_counter_ns() - start) * 1e-9 / _CALLS)
    return [median(times) for times in samples]


class _Measured(NamedTuple):
    name: str
    call: Callable[[], Any]
    op: str
    arguments: tuple[Any, ...]
    """All of the operator's, with those that ``call`` leaves to their defaults."""


def _ours() -> Iterator[_Measured]:
    x = torch.ones(1, _SIZE)
    weight = torch.ones(_SIZE, _SIZE)
    vector = torch.ones(_SIZE)
    kpt = torch.ops.kpt
    packed, scale = kpt.pack_weight(weight, "fp32")
    yield _Measured(
        "packed_linear, 4 tensors in, 1 out",
        lambda: kpt.packed_linear(x, packed, scale, _SIZE, "fp32", vector),
        "packed_linear",
        (x, packed, scale, _SIZE, "fp32", vector, "none", -1, "weight_only"),
    )
    yield _Measured(
        "linear_act, 3 tensors in, 1 out",
        lambda: kpt.linear_act(x, weight, vector),
        "linear_act",
        (x, weight, vector, "none"),
    )
    yield _Measured(
        "add_layer_norm, 4 tensors in, 2 out",
        lambda: kpt.add_layer_norm(x, x, vector, vector),
        "add_layer_norm",
        (x, x, vector, vector, 1e-5),
    )
    yield _Measured("act, 1 tensor in, 1 out", lambda: kpt.act(x, "relu"), "act", (x, "relu"))


def _kernel_seconds(op: str, arguments: tuple[Any, ...]) -> float | None:
    if cpu.boundary() != "dlpack_c_exchange_api":
        return None
    return median([cpu.kernel_seconds(op, _CALLS, *arguments) for _ in range(_SAMPLES)])


def measure_overhead() -> Iterator[Overhead]:
    """Whole calls, the tiny kernels included, and those kernels alone: the difference is what a
    call costs. Beside them, in the same interleaved loop, ``F.linear`` of the same size with its
    bias."""
    x = torch.ones(1, _SIZE)
    weight = torch.ones(_SIZE, _SIZE)
    bias = torch.ones(_SIZE)
    for name, call, op, arguments in _ours():
        ours, theirs = _seconds([call, lambda: F.linear(x, weight, bias)])
        yield Overhead(
            name=name,
            kpt=ours,
            kernel=_kernel_seconds(op, arguments),
            torch=theirs,
            torch_name="F.linear, 3 tensors in",
        )
