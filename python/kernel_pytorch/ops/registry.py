"""From a spec to ``torch.ops.kpt.<name>``: schema, fake function, reference, autograd, autocast.

Registered per dispatch key:

- ``CompositeExplicitAutograd``: the reference, on every device, recorded with the reason. A
  backend's launcher registered for a device's own key takes precedence.
- ``Meta`` and fake tensors: the checks and ``infer``.
- ``Autograd``: the named backward operator, or the differentiated reference.
- ``AutocastCPU``/``AutocastCUDA``: casts, for the operators that ask for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from kernel_pytorch.core.dispatch_log import DispatchRecord, record, refuse_if_strict
from kernel_pytorch.ops import autograd
from kernel_pytorch.ops.spec import OpSpec, Out
from kernel_pytorch.ops.validate import bind, check

__all__ = [
    "SPECS",
    "allocate",
    "check_out",
    "raise_allocation_error",
    "register",
    "run_reference",
]

SPECS: dict[str, OpSpec] = {}
"""Every registered operator by name."""

_LIBRARY = torch.library.Library("kpt", "DEF")


def allocate(out: Out, device: torch.device) -> torch.Tensor:
    """An uninitialised output."""
    if out.like is not None:
        return torch.empty_like(out.like, dtype=out.dtype, memory_format=torch.preserve_format)
    return torch.empty(out.shape, dtype=out.dtype, device=device)


def raise_allocation_error(spec: OpSpec, bound: dict[str, Any]) -> NoReturn:
    """Say why the outputs could not be allocated: what is wrong with the arguments, ValueError when
    their size in bytes overflows, else MemoryError."""
    check(spec, bound)
    first = spec.tensor_arguments[0]
    expected = spec.infer(**bound)
    for out in (expected,) if isinstance(expected, Out) else expected:
        size = math.prod(out.shape) * out.dtype.itemsize
        asks = (
            f"{spec.name}: argument '{first}' of shape {list(bound[first].shape)} asks for an "
            f"output of shape {list(out.shape)} in {out.dtype}, {size} bytes"
        )
        if size >= 2**63:
            raise ValueError(f"{asks}: at most 2^63 - 1 can be addressed")
    raise MemoryError(f"{asks}, and there is not enough memory")


def check_out(
    spec: OpSpec, expected: Out, bound: dict[str, Any], out: torch.Tensor, has_storage: bool = True
) -> None:
    """Refuse an ``out=`` tensor of another shape, dtype or device, or one that partly overlaps an
    input (being the first input exactly is fine: operators with ``out=`` work row by row)."""
    op = spec.name
    first = bound[spec.tensor_arguments[0]]
    if tuple(out.shape) != tuple(expected.shape):
        raise ValueError(
            f"{op}: argument 'out' must have shape {list(expected.shape)}, got {list(out.shape)}"
        )
    if out.dtype != expected.dtype:
        raise TypeError(f"{op}: argument 'out' must have dtype {expected.dtype}, got {out.dtype}")
    if out.device != first.device:
        raise ValueError(f"{op}: argument 'out' must be on {first.device}, got {out.device}")
    if not has_storage:
        return
    if not out.is_contiguous() and torch._debug_has_internal_overlap(out) == 1:
        raise ValueError(f"{op}: argument 'out' must not overlap itself; it has a stride of 0")
    if out.numel() == 0:
        return
    out_span = _span(out)
    for name in spec.tensor_arguments:
        t = bound[name]
        if t is None or t.numel() == 0 or not _meet(_span(t), out_span):
            continue
        same = (
            t.data_ptr() == out.data_ptr()
            and t.dtype == out.dtype
            and t.shape == out.shape
            and t.stride() == out.stride()
        )
        if not (same and name == spec.tensor_arguments[0]):
            raise ValueError(f"{op}: argument 'out' overlaps '{name}' in memory")


def _span(t: torch.Tensor) -> tuple[int, int]:
    """The addresses of the first byte and past the last one."""
    begin = t.data_ptr()
    if t.is_contiguous():
        return begin, begin + t.nbytes
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride()))
    return begin, begin + (last + 1) * t.element_size()


def _meet(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def run_reference(spec: OpSpec, backend: str, reason: str, args: tuple[Any, ...]) -> Any:
    """Run the reference in place of a native kernel: recorded, or refused in strict mode.

    ``args`` are all the schema's arguments in order, already checked.
    """
    refuse_if_strict(spec.name, backend, reason)
    bound = dict(zip((a.name for a in spec.arguments), args))
    expected = spec.infer(**bound)
    result = spec.reference(**bound)
    record(DispatchRecord(spec.name, backend, "reference", "", reason))
    if isinstance(expected, Out):
        return _as_declared(result, expected)
    return tuple(_as_declared(r, e) for r, e in zip(result, expected))


def _as_declared(result: torch.Tensor, expected: Out) -> torch.Tensor:
    # The reference may compute wider, leave integers unrounded, and write in another memory order.
    if result.is_floating_point() and not expected.dtype.is_floating_point:
        result = result.round()
    result = result.to(expected.dtype)
    if expected.like is None:
        return result.contiguous()
    wanted = torch.empty_like(expected.like, dtype=expected.dtype)
    return wanted.copy_(result) if wanted.stride() != result.stride() else result


def _composite(spec: OpSpec) -> Callable[..., Any]:
    def composite(*args: Any, **kwargs: Any) -> Any:
        bound = bind(spec, args, kwargs)
        check(spec, bound)
        device = bound[spec.tensor_arguments[0]].device.type
        return run_reference(
            spec, device, f"no native kernel for device type {device}", tuple(bound.values())
        )

    return composite


def _fake(spec: OpSpec) -> Callable[..., Any]:
    def fake(*args: Any, **kwargs: Any) -> Any:
        bound = bind(spec, args, kwargs)
        check(spec, bound)
        device = bound[spec.tensor_arguments[0]].device
        outs = spec.infer(**bound)
        try:
            if isinstance(outs, Out):
                return allocate(outs, device)
            return tuple(allocate(o, device) for o in outs)
        except (RuntimeError, MemoryError):
            if any(isinstance(n, torch.SymInt) for n in bound[spec.tensor_arguments[0]].shape):
                raise
            raise_allocation_error(spec, bound)

    return fake


def _refuse_nested(spec: OpSpec) -> Callable[..., NoReturn]:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        for name, value in bind(spec, args, kwargs).items():
            if isinstance(value, torch.Tensor) and value.is_nested:
                raise TypeError(
                    f"{spec.name}: argument '{name}' must be a strided tensor, got a nested one"
                )
        raise TypeError(f"{spec.name}: argument 'out' must be a strided tensor, got a nested one")

    return refuse


def _composite_out(spec: OpSpec) -> Callable[..., Any]:
    def composite_out(*args: Any, out: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        bound = bind(spec, args, kwargs)
        check(spec, bound)
        expected = spec.infer(**bound)
        assert isinstance(expected, Out)
        check_out(spec, expected, bound, out)
        device = out.device.type
        reason = f"no native kernel for device type {device}"
        return out.copy_(run_reference(spec, device, reason, tuple(bound.values())))

    return composite_out


def _fake_out(spec: OpSpec) -> Callable[..., Any]:
    def fake_out(*args: Any, out: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        bound = bind(spec, args, kwargs)
        check(spec, bound)
        expected = spec.infer(**bound)
        assert isinstance(expected, Out)
        check_out(spec, expected, bound, out, has_storage=False)
        return out

    return fake_out


def _fake_in_place(spec: OpSpec) -> Callable[..., None]:
    def fake_in_place(*args: Any, **kwargs: Any) -> None:
        check(spec, bind(spec, args, kwargs))

    return fake_in_place


def _composite_in_place(spec: OpSpec) -> Callable[..., None]:
    def composite_in_place(*args: Any, **kwargs: Any) -> None:
        bound = bind(spec, args, kwargs)
        check(spec, bound)
        device = bound[spec.tensor_arguments[0]].device.type
        reason = f"no native kernel for device type {device}"
        autograd.write_over(spec, bound, run_reference(spec, device, reason, tuple(bound.values())))

    return composite_in_place


def _autocast(spec: OpSpec, device_type: str) -> Callable[..., Any]:
    op = getattr(torch.ops.kpt, spec.name).default
    off = torch._C.DispatchKeySet(
        torch._C.DispatchKey.AutocastCPU
        if device_type == "cpu"
        else torch._C.DispatchKey.AutocastCUDA
    )

    names = tuple(a.name for a in spec.arguments)

    def cast(name: str, value: Any, dtype: torch.dtype) -> Any:
        if (
            isinstance(value, torch.Tensor)
            and value.dtype in spec.dtypes
            and value.dtype != dtype
            # Scales, sinks and the like are declared in a dtype of their own: they keep it.
            and value.dtype not in spec.arg_dtypes.get(name, ())
        ):
            return value.to(dtype)
        return value

    def autocast(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype(device_type)
        cast_args = [cast(n, a, dtype) for n, a in zip(names, args)]
        cast_kwargs = {n: cast(n, v, dtype) for n, v in kwargs.items()}
        with torch._C._ExcludeDispatchKeyGuard(off):
            return op(*cast_args, **cast_kwargs)

    return autocast


def register(spec: OpSpec) -> OpSpec:
    """Make ``torch.ops.kpt.<name>`` from its declaration; returns the spec."""
    if spec.name in SPECS:
        raise ValueError(f"operator {spec.name} is already registered")
    name = spec.name
    _LIBRARY.define(f"{name}{spec.schema}", tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, _composite(spec), "CompositeExplicitAutograd")
    torch.library.register_fake(f"kpt::{name}", _fake(spec), lib=_LIBRARY)
    _LIBRARY.impl(name, autograd.kernel(spec), "Autograd")
    _LIBRARY.impl(name, _refuse_nested(spec), "AutogradNestedTensor")
    if spec.autocast:
        _LIBRARY.impl(name, _autocast(spec, "cpu"), "AutocastCPU")
        _LIBRARY.impl(name, _autocast(spec, "cuda"), "AutocastCUDA")
    if spec.out_overload:
        arguments = spec.schema.rsplit(" -> ", 1)[0].removesuffix(")")
        keyword_only = "" if "*," in arguments else " *,"
        _LIBRARY.define(f"{name}.out{arguments},{keyword_only} Tensor(a!) out) -> Tensor(a!)")
        _LIBRARY.impl(f"{name}.out", _composite_out(spec), "CompositeExplicitAutograd")
        _LIBRARY.impl(f"{name}.out", autograd.out_kernel(spec), "Autograd")
        _LIBRARY.impl(f"{name}.out", _refuse_nested(spec), "AutogradNestedTensor")
        torch.library.register_fake(f"kpt::{name}.out", _fake_out(spec), lib=_LIBRARY)
    if spec.in_place:
        arguments = spec.schema.rsplit(" -> ", 1)[0]
        for number, argument in enumerate(spec.in_place):
            alias = f"Tensor({'abcd'[number]}!) {argument}"
            arguments = re.sub(rf"\bTensor {argument}\b", alias, arguments)
        _LIBRARY.define(f"{name}_{arguments} -> ()", tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(f"{name}_", _composite_in_place(spec), "CompositeExplicitAutograd")
        _LIBRARY.impl(f"{name}_", autograd.in_place_kernel(spec), "Autograd")
        _LIBRARY.impl(f"{name}_", _refuse_nested(spec), "AutogradNestedTensor")
        torch.library.register_fake(f"kpt::{name}_", _fake_in_place(spec), lib=_LIBRARY)
    SPECS[name] = spec
    return spec
