"""Inputs of a benchmark row: one set that stays in the caches, or copies enough to leave them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from kernel_pytorch.ops.spec import Benchmark, OpSpec

__all__ = ["BEYOND_CACHE", "Call", "Inputs", "available_bytes", "make_inputs"]

_MAX_COPIES = 2048
BEYOND_CACHE = 4
"""Cold inputs are this many times the caches: one that drops lines at random still holds some of
what was used one cache size ago, and nearly nothing of what was used four ago."""


class Call(NamedTuple):
    """Arguments of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def tensors(self) -> Iterator[torch.Tensor]:
        return (v for v in (*self.args, *self.kwargs.values()) if isinstance(v, torch.Tensor))

    def nbytes(self) -> int:
        return sum(t.untyped_storage().nbytes() for t in self.tensors())

    def copy(self) -> Call:
        def own(value: Any) -> Any:
            return value.clone() if isinstance(value, torch.Tensor) else value

        return Call(tuple(map(own, self.args)), {k: own(v) for k, v in self.kwargs.items()})


class Inputs(NamedTuple):
    """What the two sides of a row are called with, each in rotation."""

    kpt: list[Call]
    eager: list[Call]
    hot: bool
    working_set: int
    """Bytes of one call's tensors, its ``out=`` tensor included."""
    residency: str
    """Where the inputs lie, in words."""


def available_bytes() -> int:
    """Memory that can be had without swapping; 4 GiB where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 << 30


def make_inputs(
    spec: OpSpec, benchmark: Benchmark, *, cache_bytes: int, memory_bytes: int, hot: bool, seed: int
) -> Inputs:
    """Inputs for ``benchmark``: hot if it or the caller says so, else rotating through copies
    of :data:`BEYOND_CACHE` times ``cache_bytes`` in all, as far as ``memory_bytes`` allows."""
    hot = hot or benchmark.hot
    generator = torch.Generator().manual_seed(seed)
    args, kwargs = spec.build(benchmark.case, benchmark.dtype, generator)
    bound = dict(zip((a.name for a in spec.arguments), args)) | kwargs
    first = Call(tuple(args), dict(kwargs))
    if benchmark.eager_inputs is None:
        eager = first
    else:
        eager = Call(tuple(benchmark.eager_inputs(*args, **kwargs)), {})
    if benchmark.use_out:
        out = spec.infer(**bound)
        first = Call(first.args, first.kwargs | {"out": torch.zeros(out.shape, dtype=out.dtype)})
    size = first.nbytes()
    shared = benchmark.eager_inputs is None
    step = size if shared else size + eager.nbytes()
    if hot:
        return Inputs([first], [eager], True, size, f"in cache ({_show(size)})")
    wanted = max(2, math.ceil(BEYOND_CACHE * cache_bytes / max(step, 1)))
    count = max(2, min(wanted, _MAX_COPIES, int(memory_bytes / max(step, 1))))
    # One set at a time: the copies of both sides are all in memory at once otherwise too.
    kpt_calls = [first, *(first.copy() for _ in range(count - 1))]
    if shared:
        eager_calls = [
            Call(c.args, {k: v for k, v in c.kwargs.items() if k != "out"}) for c in kpt_calls
        ]
    else:
        eager_calls = [eager, *(eager.copy() for _ in range(count - 1))]
    residency = f"{count} copies, {_show(count * step)}"
    if count < wanted:
        residency += f" (fewer than wanted; the last-level cache has {_show(cache_bytes)})"
    return Inputs(kpt_calls, eager_calls, False, size, residency)


def _show(nbytes: float) -> str:
    for unit in ("B", "KB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} GB"
