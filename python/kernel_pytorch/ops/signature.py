"""Compiled functions with an operator's own signature.

The launchers and autograd kernels are compiled from the specs as straight-line Python, as
dataclasses compile ``__init__``: a generic loop over arguments would cost more than a small kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kernel_pytorch.ops.spec import OpSpec

__all__ = ["by_name", "compiled", "defaults", "forwarded", "parameters"]


def parameters(spec: OpSpec) -> str:
    """``x, kind=default_kind, *, scale=default_scale``: the schema's parameters."""
    parts: list[str] = []
    for a in spec.arguments:
        if a.kwarg_only and "*" not in parts:
            parts.append("*")
        parts.append(a.name + (f"=default_{a.name}" if a.has_default else ""))
    return ", ".join(parts)


def defaults(spec: OpSpec) -> dict[str, Any]:
    """The names that :func:`parameters` refers to."""
    return {f"default_{a.name}": a.default_value for a in spec.arguments if a.has_default}


def forwarded(spec: OpSpec) -> str:
    """``x, kind, scale=scale``: passes the parameters on to a function of the same signature."""
    return ", ".join(f"{a.name}={a.name}" if a.kwarg_only else a.name for a in spec.arguments)


def by_name(spec: OpSpec) -> str:
    """``x=x, kind=kind``: ``infer`` and ``check`` take the schema's names as keywords."""
    return ", ".join(f"{a.name}={a.name}" for a in spec.arguments)


def compiled(name: str, source: str, namespace: dict[str, Any]) -> Callable[..., Any]:
    """The function ``name`` that ``source`` defines, with ``namespace`` as its globals."""
    exec(compile(source, f"<{name}>", "exec"), namespace)
    function: Callable[..., Any] = namespace[name]
    return function
