"""The CUDA backend: launchers over ``kernel_pytorch._native.cuda``, for NVIDIA GPUs.

Devices, streams and memory are torch's: a kernel runs on the device of its tensors, on torch's
current stream there, and writes into tensors that torch allocated. It neither waits nor allocates,
so CUDA graphs capture it.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import torch

from kernel_pytorch._native import load
from kernel_pytorch.backends.launcher import Backend, make_launcher, make_out_launcher
from kernel_pytorch.ops.registry import SPECS

__all__ = [
    "Devices",
    "VariantInfo",
    "devices",
    "force_variant",
    "module_file",
    "register",
    "runtime_version",
    "variants",
]

_LIBRARY = torch.library.Library("kpt", "IMPL")


class VariantInfo(NamedTuple):
    """One native implementation of an operator."""

    op: str
    name: str
    target: str
    """What it runs on: "portable" (compute capability 8.0 and later) or one architecture, such as
    "sm_90a"."""


class Devices(NamedTuple):
    """The GPUs that the CUDA runtime sees."""

    capabilities: tuple[tuple[int, int], ...]
    """Compute capability of each, in torch's order."""
    problem: str
    """Why there are none; "" when there are some."""


class _Cuda(Backend):
    name = "cuda"


CUDA = _Cuda()


def register() -> None:
    """Register the launcher of every operator that has native kernels for NVIDIA GPUs."""
    if torch.version.hip is not None:
        return  # AMD's tensors come under the same dispatch key
    for spec in SPECS.values():
        if "nvidia" not in spec.native_backends:
            continue
        launcher, _ = make_launcher(spec, CUDA)
        _LIBRARY.impl(spec.name, launcher, "CUDA")
        if spec.out_overload:
            _LIBRARY.impl(f"{spec.name}.out", make_out_launcher(spec, CUDA), "CUDA")


def devices() -> Devices:
    """The GPUs that kernels could run on. Loads the driver where there is one; creates nothing on
    a GPU.

    Raises :class:`~kernel_pytorch.core.errors.NativeUnavailableError` without the native module, as
    the functions below do.
    """
    found, problem = load("cuda").devices()
    return Devices(tuple(found), problem)


def force_variant(op: str, name: str) -> contextlib.AbstractContextManager[None]:
    """Within the block, ``op`` runs only its variant ``name`` (process-wide, for tests); a call
    that the variant does not serve runs the reference."""
    return CUDA.force_variant(op, name)


def variants(op: str | None = None) -> list[VariantInfo]:
    """The native variants of ``op`` (all operators when None), best first per operator."""
    found = [VariantInfo(*v) for v in load("cuda").variants()]
    return [v for v in found if op is None or v.op == op]


def runtime_version() -> str:
    """Version of the CUDA runtime inside the module: "13.0"."""
    number: int = load("cuda").runtime_version
    return f"{number // 1000}.{number // 10 % 100}"


def module_file() -> str:
    """The path of the compiled module."""
    return str(load("cuda").__file__)
