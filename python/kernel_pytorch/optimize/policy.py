"""Precision policies: which dtype and weight format a replacement computes in."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["POLICIES", "Policy", "policy"]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How exact the optimized model is to be.

    ``max_error`` is the bound on ``|y' - y| / |y|`` (L2 norms over a row of the output's first
    dimension, the worst row) for each replacement and for the whole model, by the dtype of the
    model's weights.
    """

    name: str
    compute_dtype: torch.dtype | None
    """What activations between kernels are in; None: as the module's weights."""
    weight_format: str | None
    """The format of packed weights; None: as the module's weights."""
    group_size: int = -1
    """Inputs that share a scale of a packed weight; -1: all of them."""
    symmetric: bool = True
    """False: packed weights have zero points."""
    compute: str = "weight_only"
    """``packed_linear``'s ``compute``: "weight_only" or "int8" (dynamic int8 activations)."""
    max_error: float | None = None
    """None: by the dtype of the weights."""

    def dtype_for(self, weights: torch.dtype) -> torch.dtype:
        """The dtype that a module with these weights computes in."""
        return weights if self.compute_dtype is None else self.compute_dtype

    def format_for(self, weights: torch.dtype) -> str | None:
        """The packed format of these weights; None: they are used as stored."""
        if self.weight_format is not None:
            return self.weight_format
        # No packed format keeps float16 exactly at its size.
        return {torch.float32: "fp32", torch.bfloat16: "bf16"}.get(weights)

    def error_bound(self, weights: torch.dtype) -> float:
        """The default of ``max_error`` for a model with these weights."""
        if self.max_error is not None:
            return self.max_error
        return {torch.float32: 1e-4, torch.float16: 5e-3}.get(weights, 3e-2)


POLICIES = {
    p.name: p
    for p in (
        Policy(name="keep", compute_dtype=None, weight_format=None),
        Policy(name="bf16", compute_dtype=torch.bfloat16, weight_format="bf16", max_error=3e-2),
        Policy(
            name="int8",
            compute_dtype=torch.bfloat16,
            weight_format="int8",
            compute="int8",
            max_error=1e-1,
        ),
        Policy(
            name="int4",
            compute_dtype=torch.bfloat16,
            weight_format="int4",
            group_size=32,
            symmetric=False,
            compute="int8",
            # Rounding to the nearest of 16 values costs each layer about 0.1.
            max_error=3.5e-1,
        ),
        Policy(name="fp8", compute_dtype=torch.bfloat16, weight_format="fp8_e4m3", max_error=1e-1),
    )
}
"""Every policy by name."""


def policy(name: str) -> Policy:
    """The policy called ``name``; ValueError names the choices."""
    if name not in POLICIES:
        raise ValueError(
            f"optimize: argument 'precision' must be one of {', '.join(map(repr, POLICIES))}, "
            f"got {name!r}"
        )
    return POLICIES[name]
