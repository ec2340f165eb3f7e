"""``kpt::layer_norm``: normalization to zero mean and unit variance over the last dimension."""

from __future__ import annotations

import torch

from kernel_pytorch.ops import norm_gradients, norms
from kernel_pytorch.ops.spec import Benchmark, Case, OpSpec, Out, cases


def _infer(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> Out:
    return Out(x.shape, x.dtype)


def _eager(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    return norms.layer_norm(eps)(x, *norms.in_dtype_of(x, weight, bias))


def _reference(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    return norms.wide(norms.layer_norm(eps), x, weight, bias)


_GIVEN = ("weight", "bias")

LAYER_NORM = OpSpec(
    name="layer_norm",
    family="norm",
    schema="(Tensor x, Tensor? weight=None, Tensor? bias=None, float eps=1e-5) -> Tensor",
    dims={"x": "... N", "weight": "N", "bias": "N"},
    arg_dtypes={"weight": norms.PARAM_DTYPES, "bias": norms.PARAM_DTYPES},
    infer=_infer,
    reference=_reference,
    eager=_eager,
    backward="layer_norm_backward",
    backward_call=norm_gradients.of_layer_norm,
    saved=("x", "weight", "bias"),
    out_overload=True,
    free_sizes=("N",),
    native_backends=("cpu", "nvidia"),
    cost=norms.cost(2),
    cases=(
        cases(sizes=norms.SIZES, given=[(), _GIVEN], leads=norms.LEADS)
        + cases(sizes=[{"N": 65}], given=[("weight",), ("bias",)], options=[{"eps": 0.1}])
    ),
    error_cases=norms.error_cases("layer_norm", 1),
    benchmarks=tuple(
        Benchmark(
            name=name,
            case=Case(sizes={"N": n}, given=_GIVEN, lead=(m,)),
            dtype=dtype,
            use_out=out,
            hot=not out,
        )
        for dtype in (torch.bfloat16, torch.float32)
        for name, m, n, out in (
            ("512x1024", 512, 1024, False),
            ("4096x384", 4096, 384, False),
            ("4096x4096 out=", 4096, 4096, True),
        )
    )
    + norm_gradients.training_rows(_GIVEN),
    doc="""
`y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias` over the last dimension, `var` the biased
variance (Ba, Kiros and Hinton 2016; `torch.nn.functional.layer_norm`).

`x` is `[..., N]`; `weight` and `bias` are optional, `[N]`, of `x`'s dtype or float32. Computed in
float32 and rounded once; the mean is subtracted before squaring, so a large mean costs no accuracy.
With `out=`, `out` may be `x` itself. A row with NaN or an infinity is all NaN.
""",
)
