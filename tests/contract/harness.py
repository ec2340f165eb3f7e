"""What the contract tests share beyond the contract itself (kernel_pytorch.ops.contract):
sentinels, memory layouts, the instruction sets of this machine.

Every test here is derived from the operators' declarations; an operator that is declared is
tested, whatever it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

import kernel_pytorch
from kernel_pytorch.backends import cpu
from kernel_pytorch.ops import SPECS
from kernel_pytorch.ops.contract import (
    ISA_LEVELS,
    bits,
    check_accuracies,
    check_accuracy,
    comparable,
    inputs,
    map_tensors,
    op_of,
    outputs_of,
    served_cases,
    short,
    small_cases,
    widened,
)
from kernel_pytorch.ops.spec import OpSpec

__all__ = [
    "Guarded",
    "assert_bitwise_equal",
    "bits",
    "bound_values",
    "check_accuracies",
    "check_accuracy",
    "comparable",
    "inputs",
    "is_fp8",
    "isa_levels",
    "map_tensors",
    "native_function",
    "op_of",
    "outputs_of",
    "ran_native",
    "served_cases",
    "short",
    "small_cases",
    "specs",
    "strided_views",
    "widened",
]

SENTINEL_BYTE = 0xA5


def specs() -> list[OpSpec]:
    """The declared operators, by name."""
    return [SPECS[name] for name in sorted(SPECS)]


def isa_levels() -> list[str]:
    """The levels that this CPU has, lowest first."""
    return list(ISA_LEVELS[: ISA_LEVELS.index(cpu.detected_isa()) + 1])


def is_fp8(t: torch.Tensor) -> bool:
    return t.is_floating_point() and t.itemsize == 1


def assert_bitwise_equal(a: Any, b: Any, what: str) -> None:
    for i, (x, y) in enumerate(zip(outputs_of(a), outputs_of(b), strict=True)):
        if not torch.equal(bits(x), bits(y)):
            differ = (bits(x) != bits(y)).sum().item()
            raise AssertionError(f"{what}: output {i} differs in {differ} of {x.numel()} elements")


def native_function(name: str, backend: str = "cpu") -> Callable[..., str]:
    from kernel_pytorch._native import load

    function: Callable[..., str] = getattr(load(backend), name)
    return function


def ran_native(calls: kernel_pytorch.core.dispatch_log.Explanation, name: str) -> bool:
    return any(c.op == name and c.implementation == "native" for c in calls)


def bound_values(spec: OpSpec, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
    from kernel_pytorch.ops.validate import bind

    return list(bind(spec, tuple(args), kwargs).values())


class Guarded:
    """A tensor inside a larger buffer of sentinel bytes: offset by one element, rows apart."""

    def __init__(
        self, shape: torch.Size, dtype: torch.dtype, row_gap: int = 3, device: Any = "cpu"
    ) -> None:
        size = dtype.itemsize
        last = shape[-1] if len(shape) else 1
        rows = 1
        for n in shape[:-1]:
            rows *= n
        stride = last + row_gap
        self._buffer = torch.full(
            ((rows * stride + 8) * size,), SENTINEL_BYTE, dtype=torch.uint8, device=device
        )
        strides = []
        step = stride
        for n in reversed(shape[:-1]):
            strides.append(step)
            step *= max(n, 1)
        strides = [*reversed(strides), 1] if len(shape) else []
        self.tensor = self._buffer.view(dtype).as_strided(tuple(shape), tuple(strides), 1)

    def assert_untouched_outside(self, what: str) -> None:
        mask = torch.ones_like(self._buffer, dtype=torch.bool)
        size = self.tensor.element_size()
        inside = mask.view(-1, size)
        inside.as_strided(
            (*self.tensor.shape, size), (*(s * size for s in self.tensor.stride()), 1), size
        ).fill_(False)
        assert bool((self._buffer[mask] == SENTINEL_BYTE).all()), f"{what}: wrote outside"


def strided_views(t: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The same values under other memory layouts with a dense last dimension."""
    if t.dim() >= 1:
        guarded = Guarded(t.shape, t.dtype, device=t.device)
        guarded.tensor.copy_(t)
        yield "rows apart, offset by one element", guarded.tensor
    if t.dim() >= 3:
        yield "leading dims transposed", t.transpose(0, -2).contiguous().transpose(0, -2)
    if t.dim() >= 2 and t.shape[0] > 1:
        yield "first dim expanded", t[:1].expand(t.shape)
