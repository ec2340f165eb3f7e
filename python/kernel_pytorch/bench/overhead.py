"""What a call costs beyond its kernel: tensors so small that hardly anything else is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from kernel_pytorch.bench.record import Overhead
from kernel_pytorch.bench.stats import median
from kernel_pytorch.ops import SPECS

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


def _ours() -> Iterator[tuple[str, Callable[[], Any]]]:
    x = torch.ones(1, _SIZE)
    weight = torch.ones(_SIZE, _SIZE)
    vector = torch.ones(_SIZE)
    kpt = torch.ops.kpt
    if "packed_linear" in SPECS:
        packed, scale = kpt.pack_weight(weight, "fp32")
        yield (
            "packed_linear, 4 tensors in, 1 out",
            lambda: kpt.packed_linear(x, packed, scale, _SIZE, "fp32", vector),
        )
    if "linear_act" in SPECS:
        yield "linear_act, 3 tensors in, 1 out", lambda: kpt.linear_act(x, weight, vector)
    if "add_layer_norm" in SPECS:
        yield (
            "add_layer_norm, 4 tensors in, 2 out",
            lambda: kpt.add_layer_norm(x, x, vector, vector),
        )
    if "act" in SPECS:
        yield "act, 1 tensor in, 1 out", lambda: kpt.act(x, "relu")


def measure_overhead() -> Iterator[Overhead]:
    """Whole calls, the tiny kernels included: upper bounds of the overhead. Beside them, in the
    same interleaved loop, ``F.linear`` of the same size with its bias."""
    x = torch.ones(1, _SIZE)
    weight = torch.ones(_SIZE, _SIZE)
    bias = torch.ones(_SIZE)
    for name, call in _ours():
        ours, theirs = _seconds([call, lambda: F.linear(x, weight, bias)])
        yield Overhead(name=name, kpt=ours, torch=theirs, torch_name="F.linear, 3 tensors in")
