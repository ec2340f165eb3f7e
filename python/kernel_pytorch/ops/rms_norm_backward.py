"""``kpt::rms_norm_backward``: the gradients of ``rms_norm`` and ``add_rms_norm``."""

from __future__ import annotations

import torch

from kernel_pytorch.ops import norm_gradients, norms
from kernel_pytorch.ops.spec import OpSpec, Out


def _infer(
    grad_y: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    grad_new_residual: torch.Tensor | None,
    weight_grad: bool,
) -> tuple[Out, Out]:
    return Out(x.shape, x.dtype), norm_gradients.param_out(x, weight if weight_grad else None)


def _eager(
    grad_y: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    *,
    grad_new_residual: torch.Tensor | None = None,
    weight_grad: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    grad_x, grad_weight = norm_gradients.eager(
        norms.rms_norm(eps), grad_y, x, weight, grad_new_residual=grad_new_residual
    )
    return grad_x, norm_gradients.wanted(grad_weight if weight_grad else None, x, weight)


def _reference(
    grad_y: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    *,
    grad_new_residual: torch.Tensor | None = None,
    weight_grad: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    g, wide_x, w, residual = norm_gradients.widened(grad_y, x, weight, grad_new_residual)
    rstd = torch.rsqrt(wide_x.square().mean(-1, keepdim=True) + eps)
    normal = wide_x * rstd
    scaled = g if w is None else g * w
    grad_x = rstd * (scaled - normal * (scaled * normal).mean(-1, keepdim=True))
    if residual is not None:
        grad_x = grad_x + residual
    grad_weight = norm_gradients.sum_over_rows(g * normal) if weight_grad else None
    return grad_x.to(x.dtype), norm_gradients.wanted(grad_weight, x, weight)


RMS_NORM_BACKWARD = OpSpec(
    name="rms_norm_backward",
    family="norm",
    schema=(
        "(Tensor grad_y, Tensor x, Tensor? weight=None, float eps=1e-6, *, "
        "Tensor? grad_new_residual=None, bool weight_grad=True) "
        "-> (Tensor grad_x, Tensor grad_weight)"
    ),
    dims={"grad_y": "...M N", "x": "...M N", "weight": "N", "grad_new_residual": "...M N"},
    arg_dtypes={"weight": norms.PARAM_DTYPES},
    infer=_infer,
    reference=_reference,
    eager=_eager,
    row_dims=None,
    free_sizes=("N",),
    native_backends=("cpu", "nvidia"),
    cost=norm_gradients.cost,
    cases=norm_gradients.make_cases(("weight",)),
    error_cases=norm_gradients.error_cases("rms_norm_backward"),
    benchmarks=norm_gradients.benchmarks(norms.rms_norm(1e-6), ("weight",)),
    doc="""
The gradients of `rms_norm`. With `rstd = 1 / sqrt(mean(x^2) + eps)`, `n = x * rstd` and
`g = grad_y * weight`:

- `grad_x = rstd * (g - n * mean(g * n))`, plus `grad_new_residual` when that is given: with `x` the
  sum of `add_rms_norm` and `grad_new_residual` the gradient of that output, `grad_x` is the
  gradient of both its inputs.
- `grad_weight = sum(grad_y * n)` over all rows, in `weight`'s dtype; empty (`[0]`) without `weight`
  or with `weight_grad=False`.

`grad_y` and `x` are `[..., N]`. The statistics are computed again from `x`. Computed in float32 and
rounded once; sums over rows are taken in an order that depends on the shape alone.
""",
)
