"""The calls of an operator that must be refused: those that its declaration lists, and those that
follow from its dims, dtypes and choices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kernel_pytorch.ops.spec import OpSpec
from kernel_pytorch.ops.validate import bind
from tests.contract import harness

WRONG_DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int16,
    torch.complex64,
    torch.complex128,
    torch.float8_e5m2,
)
Errors = type[Exception] | tuple[type[Exception], ...]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One bad call and the exception it must raise."""

    name: str
    call: Callable[[], Any]
    error: Errors
    match: str


def good_call(spec: OpSpec) -> dict[str, Any]:
    """Arguments of a legal call with every optional tensor it can have, sizes above one."""
    case = max(
        harness.served_cases(spec),
        key=lambda c: (
            len(c.given),
            min([2, *c.lead, *c.sizes.values()]),
            min(2, len(c.lead)),
            -sum(c.lead) - sum(c.sizes.values()),
        ),
    )
    args, kwargs = harness.inputs(spec, case, torch.float32)
    return bind(spec, tuple(args), kwargs)


def call(spec: OpSpec, bound: dict[str, Any]) -> Any:
    args = [bound[a.name] for a in spec.arguments if not a.kwarg_only]
    kwargs = {a.name: bound[a.name] for a in spec.arguments if a.kwarg_only}
    return harness.op_of(spec)(*args, **kwargs)


def refusals(spec: OpSpec) -> Iterator[Refusal]:
    """Every refused call, each with a name of its own."""
    for declared in spec.error_cases:
        yield Refusal(
            name=f"declared: {declared.name}",
            call=lambda declared=declared: declared.call(harness.op_of(spec)),
            error=declared.error,
            match=declared.match,
        )
    yield from _spoiled_tensors(spec)
    yield from _wrong_choices(spec)
    yield from _against_the_schema(spec)
    if spec.out_overload:
        yield from _wrong_outputs(spec)


def _changed(spec: OpSpec, name: str, value: Any) -> Callable[[], Any]:
    def run() -> Any:
        bound = good_call(spec)
        bound[name] = value
        return call(spec, bound)

    return run


def _misaligned(t: torch.Tensor) -> torch.Tensor:
    raw = np.zeros(t.numel() * t.element_size() + 1, dtype=np.uint8)
    return torch.from_numpy(np.frombuffer(raw[1:].data, dtype=np.float32)).view(t.shape)


def _spoiled_tensors(spec: OpSpec) -> Iterator[Refusal]:
    good = good_call(spec)
    tensors = {n: good[n] for n in spec.tensor_arguments if good[n] is not None}
    for name, t in tensors.items():
        for what, spoiled, error, match in _spoiled(spec, name, t, alone=len(tensors) == 1):
            yield Refusal(
                name=f"{name}: {what}",
                call=_changed(spec, name, spoiled),
                error=error,
                match=f"{spec.name}: argument '{match or name}' ",
            )


def _spoiled(
    spec: OpSpec, name: str, t: torch.Tensor, alone: bool
) -> Iterator[tuple[str, torch.Tensor, Errors, str]]:
    # Another tensor may be the one that is found not to fit: its name is then in the message.
    other = "" if alone else r"\w+"
    for dtype in WRONG_DTYPES:
        allowed = spec.dtypes if name == spec.tensor_arguments[0] else spec.arg_dtypes.get(name, ())
        if dtype != t.dtype and dtype not in allowed:
            yield f"dtype {harness.short(dtype)}", t.to(dtype), TypeError, other
    if t.itemsize > 1:  # fp8 cannot be made so
        yield "sparse", t.to_sparse(), TypeError, name
    if t.dim() > 0 and t.itemsize > 1:
        yield "nested", torch.nested.as_nested_tensor([t, t]), TypeError, name
    if t.dim() == 2:
        yield "sparse rows", t.to_sparse_csr(), TypeError, name
    if t.dtype == torch.float32 and t.dim() > 0:
        yield "mkldnn layout", t.to_mkldnn(), TypeError, name
    dims = spec.dims.get(name, "...")
    if not dims.startswith("..."):  # else the reference serves it
        yield "rank 9", t.reshape((1,) * (9 - t.dim()) + tuple(t.shape)), ValueError, other
    fixed = [d for d in dims.split() if not d.startswith("...")]
    if fixed:
        yield "no dimensions", t.new_ones(()), ValueError, name
    if not alone:  # a meta tensor alone is a legal call, and nothing else fixes a size
        yield "meta device", t.to("meta"), ValueError, other
        if _last_size_is_shared(spec, name):
            longer = torch.cat([t, t[..., :1]], dim=-1)
            yield "one more in the last dim", longer, ValueError, other
    if name in spec.dims and t.dtype == torch.float32 and t.dim() > 0:
        yield "misaligned", _misaligned(t), ValueError, name
        if t.shape[-1] > 1:
            gapped = torch.stack([t, t], dim=-1)[..., 0]
            yield "last dim not dense", gapped, ValueError, name


def _last_size_is_shared(spec: OpSpec, name: str) -> bool:
    """Whether a required tensor fixes the last size of this one."""
    optional = {a.name for a in spec.arguments if a.type == "Optional[Tensor]"}
    last = spec.dims.get(name, "").split()[-1:]
    return bool(last) and any(
        last[0] in dims.split()
        for other, dims in spec.dims.items()
        if other != name and other not in optional
    )


def _wrong_choices(spec: OpSpec) -> Iterator[Refusal]:
    types = {a.name: a.type for a in spec.arguments}
    for name, choices in spec.choices.items():
        values: tuple[Any, ...] = ("", "GELU", "nonsense", "none ", "relu\0")
        if types[name] == "ScalarType":
            values = (torch.float64, torch.int64, torch.bool, torch.complex64)
        for value in values:
            if value not in choices:
                yield Refusal(
                    name=f"{name}: {value!r}",
                    call=_changed(spec, name, value),
                    error=ValueError,
                    match=f"{spec.name}: argument '{name}' must be one of",
                )


def _against_the_schema(spec: OpSpec) -> Iterator[Refusal]:
    """What PyTorch itself refuses, from the schema: it names operator, argument, type and value."""
    first = spec.tensor_arguments[0]
    yield Refusal(
        name=f"{first}: None for a tensor",
        call=_changed(spec, first, None),
        error=TypeError,
        match=f"{spec.name}: argument '{first}' must be a tensor, got None",
    )
    for value in (3, "text", np.zeros(3), [[1.0]]):
        yield Refusal(
            name=f"{first}: {type(value).__name__} for a tensor",
            call=_changed(spec, first, value),
            error=(TypeError, RuntimeError),
            match=rf"kpt::{spec.name}\(\) .*'{first}'",
        )
    for a in spec.arguments:
        if a.type in ("str", "float", "int", "bool", "ScalarType"):
            yield Refusal(
                name=f"{a.name}: a list for {a.type}",
                call=_changed(spec, a.name, [[]]),
                error=(TypeError, RuntimeError),
                match=rf"kpt::{spec.name}\(\) .*'{a.name}'",
            )
    op = harness.op_of(spec)
    yield Refusal(
        name="no arguments",
        call=op,
        error=(TypeError, RuntimeError),
        match=rf"kpt::{spec.name}\(\) is missing value for argument",
    )
    args = [v for v in good_call(spec).values() if isinstance(v, torch.Tensor)]
    yield Refusal(
        name="unknown keyword",
        call=lambda: op(*args, nonsense=1),
        error=(TypeError, RuntimeError),
        match=spec.name,
    )


def _wrong_outputs(spec: OpSpec) -> Iterator[Refusal]:
    calls = (harness.inputs(spec, case, torch.float32) for case in harness.served_cases(spec))
    wants = ((args, harness.op_of(spec)(*args)) for args, _ in calls)
    (x, *rest), want = next((a, w) for a, w in wants if w.dim() >= 2 and w.shape[-1] > 1)
    op = harness.op_of(spec).out
    named = f"{spec.name}: argument 'out' "

    def into(name: str, out: torch.Tensor, error: Errors, match: str) -> Refusal:
        return Refusal(
            name=f"out: {name}", call=lambda: op(x, *rest, out=out), error=error, match=match
        )

    yield into("other shape", want.new_empty(*want.shape, 1), ValueError, f"{named}must have shape")
    yield into("other dtype", want.half(), TypeError, f"{named}must have dtype")
    yield into("other device", want.to("meta"), ValueError, f"{named}must be on cpu")
    expanded = want[..., :1].expand(want.shape)
    yield into("overlaps itself", expanded, ValueError, f"{named}must not overlap itself")
    gapped = torch.stack([want, want], dim=-1)[..., 0]
    yield into("not dense", gapped, ValueError, f"{spec.name}: argument '\\w+' must have a dense")
    yield into("misaligned", _misaligned(want), ValueError, f"{spec.name}: argument '\\w+' must be")
    if want.shape == x.shape and want.dtype == x.dtype:
        buffer = torch.zeros(x.numel() + 1)
        yield Refusal(
            name="out: overlaps the input",
            call=lambda: op(buffer[:-1].view(x.shape), *rest, out=buffer[1:].view(x.shape)),
            error=ValueError,
            match=f"{named}overlaps",
        )
    yield Refusal(
        name="out: an input wants a gradient",
        call=lambda: op(x.clone().requires_grad_(), *rest, out=torch.empty_like(want)),
        error=RuntimeError,
        match=f"{spec.name}: .*does not support automatic differentiation",
    )
