"""Checks of an operator's arguments, derived from its spec.

:func:`check` is the full check, with messages that name the operator, the argument, what was
expected and what came. :func:`quick_condition` is the same rules as one Python expression that the
launchers compile in: true for good calls in well under a microsecond; when it is false the full
check finds and words the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from kernel_pytorch.ops.spec import OpSpec

__all__ = ["MAX_NATIVE_RANK", "bind", "check", "quick_condition"]

MAX_NATIVE_RANK = 8
"""The native kernels' limit (kMaxRank of kernels/base/tensor_view.h)."""


def bind(spec: OpSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name with the schema's defaults filled in."""
    bound: dict[str, Any] = {}
    for i, a in enumerate(spec.arguments):
        bound[a.name] = args[i] if i < len(args) else kwargs.get(a.name, a.default_value)
    return bound


def _show(shape: Any) -> str:
    return "[" + ", ".join(str(s) for s in shape) + "]"


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return " or ".join(str(d).removeprefix("torch.") for d in dtypes)


def _allowed(spec: OpSpec, name: str, bound: Mapping[str, Any]) -> tuple[torch.dtype, ...]:
    first = spec.tensor_arguments[0]
    if name == first:
        return spec.dtypes
    allowed = spec.arg_dtypes.get(name, (first,))
    return tuple(bound[d].dtype if isinstance(d, str) else d for d in allowed)


def check(spec: OpSpec, bound: Mapping[str, Any]) -> None:
    """Raise ValueError or TypeError when the call breaks a rule of the spec; read no data."""
    op = spec.name
    optional = {a.name for a in spec.arguments if a.type == "Optional[Tensor]"}
    given = {n: bound[n] for n in spec.tensor_arguments if not (n in optional and bound[n] is None)}
    for name, t in given.items():
        if not isinstance(t, torch.Tensor):
            what = "None" if t is None else type(t).__name__
            raise TypeError(f"{op}: argument '{name}' must be a tensor, got {what}")
    first = bound[spec.tensor_arguments[0]]
    sizes: dict[str, tuple[Any, str]] = {}
    for name, t in given.items():
        if t.device != first.device:
            raise ValueError(
                f"{op}: argument '{name}' must be on {first.device} like "
                f"'{spec.tensor_arguments[0]}', got {t.device}"
            )
        if t.layout != torch.strided:
            raise TypeError(f"{op}: argument '{name}' must be a strided tensor, got {t.layout}")
        if name in spec.dims:
            _check_dims(op, name, spec.dims[name], t.shape, sizes)
        allowed = _allowed(spec, name, bound)
        # float64 is what the reference is checked in; no native kernel serves it.
        if t.dtype not in allowed and not (t.dtype == torch.float64 == first.dtype):
            raise TypeError(
                f"{op}: argument '{name}' must have dtype {_names(allowed)}, "
                f"got {_names((t.dtype,))}"
            )
    for name, choices in spec.choices.items():
        if bound[name] not in choices:
            raise ValueError(
                f"{op}: argument '{name}' must be one of {', '.join(map(repr, choices))}, "
                f"got {bound[name]!r}"
            )
    if spec.check is not None:
        spec.check(**bound)


def _check_dims(
    op: str, name: str, dims: str, shape: Any, sizes: dict[str, tuple[Any, str]]
) -> None:
    tokens = dims.split()
    lead = bool(tokens) and tokens[0].startswith("...")
    fixed = tokens[1:] if lead else tokens
    if len(shape) < len(fixed) or (not lead and len(shape) != len(fixed)):
        at_least = "at least " if lead else ""
        raise ValueError(
            f"{op}: argument '{name}' must have {at_least}{len(fixed)} dimensions [{dims}], "
            f"got shape {_show(shape)}"
        )
    start = len(shape) - len(fixed)
    found = [(token, shape[start + i]) for i, token in enumerate(fixed)]
    if lead and tokens[0] != "...":
        found.append((tokens[0], tuple(shape[:start])))
    for token, size in found:
        if token.isdigit():
            expected, where = int(token), "its declaration"
        else:
            expected, where = sizes.setdefault(token, (size, name))
        if size != expected:
            what = (
                "leading dimensions" if isinstance(size, tuple) else f"size {expected} for {token}"
            )
            raise ValueError(
                f"{op}: argument '{name}' must have {what} as in [{dims}] (set by '{where}'), "
                f"got shape {_show(shape)}"
            )


def quick_condition(spec: OpSpec) -> str:
    """A Python expression over the argument names (and ``D`` = the spec's dtypes, ``C_<arg>`` =
    choices, ``float32`` and so on) that is true only for calls that :func:`check` accepts and
    whose ranks the native kernels have room for."""
    terms: list[str] = []
    seen: dict[str, str] = {}
    first = spec.tensor_arguments[0]
    optional = {a.name for a in spec.arguments if a.type == "Optional[Tensor]"}
    for name in spec.tensor_arguments:
        own: list[str] = []
        tokens = spec.dims[name].split() if name in spec.dims else None
        if tokens is not None:
            lead = bool(tokens) and tokens[0].startswith("...")
            fixed = tokens[1:] if lead else tokens
            rank = f"len(s_{name} := {name}.shape)"
            own.append(
                f"{len(fixed)} <= {rank} <= {MAX_NATIVE_RANK}"
                if lead
                else f"{rank} == {len(fixed)}"
            )
            found = [(tok, f"s_{name}[{i - len(fixed)}]") for i, tok in enumerate(fixed)]
            if lead and tokens[0] != "...":
                found.append((tokens[0], f"s_{name}[:{-len(fixed) or 'None'}]"))
            for token, expr in found:
                if token.isdigit():
                    own.append(f"{expr} == {token}")
                elif token in seen:
                    own.append(f"{expr} == {seen[token]}")
                elif name not in optional:  # an optional tensor may be absent: it cannot bind
                    seen[token] = expr
                else:
                    own.append("False")
        if name == first:
            own.append(f"(own_dtype := {name}.dtype) in D")
        else:
            allowed = spec.arg_dtypes.get(name, (first,))
            own.append(
                "("
                + " or ".join(
                    f"{name}.dtype is "
                    + (
                        ("own_dtype" if d == first else f"{d}.dtype")
                        if isinstance(d, str)
                        else str(d).removeprefix("torch.")
                    )
                    for d in allowed
                )
                + ")"
            )
        term = " and ".join(own)
        terms.append(f"({name} is None or ({term}))" if name in optional else term)
    terms += [f"{name} in C_{name}" for name in spec.choices]
    return " and ".join(terms) or "True"
