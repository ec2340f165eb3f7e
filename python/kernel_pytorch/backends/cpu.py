"""The CPU backend: launchers over ``kernel_pytorch._native.cpu`` and control of its dispatch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from kernel_pytorch._native import load
from kernel_pytorch.backends.launcher import (
    Backend,
    make_in_place_launcher,
    make_launcher,
    make_out_launcher,
)
from kernel_pytorch.core.dispatch_log import noted, settle
from kernel_pytorch.core.errors import NativeUnavailableError
from kernel_pytorch.core.native_cpu import set_native_cpu
from kernel_pytorch.ops import autograd
from kernel_pytorch.ops.registry import SPECS
from kernel_pytorch.ops.spec import OpSpec

__all__ = [
    "VariantInfo",
    "boundary",
    "cpu_features",
    "detected_isa",
    "force_variant",
    "isa",
    "isa_limit",
    "kernel_seconds",
    "max_threads",
    "module_file",
    "register",
    "variants",
]

_LIBRARY = torch.library.Library("kpt", "IMPL")


class VariantInfo(NamedTuple):
    """One native implementation of an operator."""

    op: str
    name: str
    isa: str
    """The lowest ISA level it runs on."""


class _Cpu(Backend):
    name = "cpu"

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, Callable[..., float]] = {}

    def repeatable(
        self, spec: OpSpec, notes: Mapping[str, Any]
    ) -> tuple[Callable[..., None], Callable[..., Any]] | None:
        try:
            module = load("cpu")
        except NativeUnavailableError:
            return None
        if module.boundary(torch.Tensor) != "dlpack_c_exchange_api":
            return None
        tensors = set(spec.tensor_arguments)
        remember, repeat, seconds = module.repeatable(
            spec.name,
            tuple(a.name for a in spec.arguments),
            tuple(a.name in tensors for a in spec.arguments),
            notes,
            noted,
            settle,
        )
        autograd.repeats[spec.name] = repeat
        self.seconds[spec.name] = seconds
        return remember, repeat


CPU = _Cpu()


def register() -> None:
    """Register the launcher of every operator that has native CPU kernels, and what detection asks
    of the processor."""
    set_native_cpu(lambda: {**cpu_features(), "isa": detected_isa()})
    for spec in SPECS.values():
        if "cpu" not in spec.native_backends:
            continue
        launcher, checked = make_launcher(spec, CPU)
        _LIBRARY.impl(spec.name, launcher, "CPU")
        # The autograd kernel has tried to repeat the call by then.
        autograd.fast_paths[spec.name] = checked
        if spec.out_overload:
            _LIBRARY.impl(f"{spec.name}.out", make_out_launcher(spec, CPU), "CPU")
        if spec.in_place:
            _LIBRARY.impl(f"{spec.name}_", make_in_place_launcher(spec, CPU), "CPU")


def detected_isa() -> str:
    """The highest ISA level of this CPU: baseline, avx2, avx512, avx512_bf16 or amx."""
    name: str = load("cpu").detected_isa()
    return name


def isa() -> str:
    """The ISA level in use: the detected one, lowered by ``KPT_ISA`` or :func:`isa_limit`."""
    name: str = load("cpu").isa()
    return name


@contextlib.contextmanager
def isa_limit(name: str) -> Iterator[None]:
    """Within the block, use no kernel above ISA level ``name`` (process-wide, for tests).

    Raises ValueError for an unknown level or one that this CPU lacks.
    """
    native = load("cpu")
    before = native.isa()
    native.set_isa_limit(name)
    try:
        yield
    finally:
        native.set_isa_limit(before)


def force_variant(op: str, name: str) -> contextlib.AbstractContextManager[None]:
    """Within the block, ``op`` runs only its variant ``name`` (process-wide, for tests); a call
    that the variant does not serve runs the reference."""
    return CPU.force_variant(op, name)


def variants(op: str | None = None) -> list[VariantInfo]:
    """The native variants of ``op`` (all operators when None), best first per operator."""
    found = [VariantInfo(*v) for v in load("cpu").variants()]
    return [v for v in found if op is None or v.op == op]


def cpu_features() -> dict[str, Any]:
    """Instruction-set flags (bool) and cache sizes (bytes) as the kernels see them."""
    features: dict[str, Any] = load("cpu").cpu_features()
    return features


def max_threads() -> int:
    """Threads a kernel would use now: torch's, or 1 in a forked child and in parallel regions."""
    threads: int = load("cpu").max_threads()
    return threads


def boundary() -> str:
    """How tensors reach the kernels: "dlpack_c_exchange_api", or "python_attributes" (several
    microseconds a call slower) where torch lacks the former."""
    name: str = load("cpu").boundary(torch.Tensor)
    return name


def kernel_seconds(op: str, runs: int, *arguments: Any) -> float:
    """Mean time of the kernel alone over ``runs`` of a call, without Python, dispatch and
    allocation. ``arguments`` are all of the operator's, as in a call made before: else ValueError.
    """
    seconds: float = CPU.seconds[op](runs, *arguments)
    return seconds


def module_file() -> str:
    """The path of the compiled module."""
    return str(load("cpu").__file__)
