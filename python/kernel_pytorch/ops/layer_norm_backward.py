"""``kpt::layer_norm_backward``: the gradients of ``layer_norm`` and ``add_layer_norm``."""

from __future__ import annotations

import torch

from kernel_pytorch.ops import norm_gradients, norms
from kernel_pytorch.ops.spec import OpSpec, Out


def _infer(
    grad_y: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    grad_new_residual: torch.Tensor | None,
    weight_grad: bool,
) -> tuple[Out, Out, Out]:
    return (
        Out(x.shape, x.dtype),
        norm_gradients.param_out(x, weight if weight_grad else None),
        norm_gradients.param_out(x, bias),
    )


def _eager(
    grad_y: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *,
    grad_new_residual: torch.Tensor | None = None,
    weight_grad: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    grad_x, grad_weight, grad_bias = norm_gradients.eager(
        norms.layer_norm(eps), grad_y, x, weight, bias, grad_new_residual=grad_new_residual
    )
    return (
        grad_x,
        norm_gradients.wanted(grad_weight if weight_grad else None, x, weight),
        norm_gradients.wanted(grad_bias, x, bias),
    )


def _reference(
    grad_y: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *,
    grad_new_residual: torch.Tensor | None = None,
    weight_grad: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g, wide_x, w, residual = norm_gradients.widened(grad_y, x, weight, grad_new_residual)
    centred = wide_x - wide_x.mean(-1, keepdim=True)
    rstd = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    normal = centred * rstd
    scaled = g if w is None else g * w
    means = scaled.mean(-1, keepdim=True), (scaled * normal).mean(-1, keepdim=True)
    grad_x = rstd * (scaled - means[0] - normal * means[1])
    if residual is not None:
        grad_x = grad_x + residual
    grad_weight = norm_gradients.sum_over_rows(g * normal) if weight_grad else None
    return (
        grad_x.to(x.dtype),
        norm_gradients.wanted(grad_weight, x, weight),
        norm_gradients.wanted(norm_gradients.sum_over_rows(g), x, bias),
    )


LAYER_NORM_BACKWARD = OpSpec(
    name="layer_norm_backward",
    family="norm",
    schema=(
        "(Tensor grad_y, Tensor x, Tensor? weight=None, Tensor? bias=None, float eps=1e-5, *, "
        "Tensor? grad_new_residual=None, bool weight_grad=True) "
        "-> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)"
    ),
    dims={
        "grad_y": "...M N",
        "x": "...M N",
        "weight": "N",
        "bias": "N",
        "grad_new_residual": "...M N",
    },
    arg_dtypes={"weight": norms.PARAM_DTYPES, "bias": norms.PARAM_DTYPES},
    infer=_infer,
    reference=_reference,
    eager=_eager,
    row_dims=None,
    free_sizes=("N",),
    native_backends=("cpu", "nvidia"),
    cost=norm_gradients.cost,
    cases=norm_gradients.make_cases(("weight", "bias")),
    error_cases=norm_gradients.error_cases("layer_norm_backward"),
    benchmarks=norm_gradients.benchmarks(norms.layer_norm(1e-5), ("weight", "bias")),
    doc="""
The gradients of `layer_norm`. With `rstd = 1 / sqrt(var(x) + eps)`, `n = (x - mean(x)) * rstd` and
`g = grad_y * weight`:

- `grad_x = rstd * (g - mean(g) - n * mean(g * n))`, plus `grad_new_residual` when that is given:
  with `x` the sum of `add_layer_norm` and `grad_new_residual` the gradient of that output, `grad_x`
  is the gradient of both its inputs.
- `grad_weight = sum(grad_y * n)` over all rows, in `weight`'s dtype; empty (`[0]`) without `weight`
  or with `weight_grad=False`.
- `grad_bias = sum(grad_y)` over all rows, in `bias`'s dtype; empty (`[0]`) without `bias`, whose
  values do not matter.

`grad_y` and `x` are `[..., N]`. The statistics are computed again from `x`. Computed in float32 and
rounded once; sums over rows are taken in an order that depends on the shape alone.
""",
)
