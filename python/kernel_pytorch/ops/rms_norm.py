"""``kpt::rms_norm``: normalization to unit root mean square over the last dimension."""

from __future__ import annotations

import torch

from kernel_pytorch.ops import norm_gradients, norms
from kernel_pytorch.ops.spec import Benchmark, Case, OpSpec, Out, cases


def _infer(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> Out:
    return Out(x.shape, x.dtype)


def _eager(x: torch.Tensor, weight: torch.Tensor | None = None, eps: float = 1e-6) -> torch.Tensor:
    return norms.rms_norm(eps)(x, *norms.in_dtype_of(x, weight))


def _reference(
    x: torch.Tensor, weight: torch.Tensor | None = None, eps: float = 1e-6
) -> torch.Tensor:
    return norms.wide(norms.rms_norm(eps), x, weight)


RMS_NORM = OpSpec(
    name="rms_norm",
    family="norm",
    schema="(Tensor x, Tensor? weight=None, float eps=1e-6) -> Tensor",
    dims={"x": "... N", "weight": "N"},
    arg_dtypes={"weight": norms.PARAM_DTYPES},
    infer=_infer,
    reference=_reference,
    eager=_eager,
    backward="rms_norm_backward",
    backward_call=norm_gradients.of_rms_norm,
    saved=("x", "weight"),
    out_overload=True,
    free_sizes=("N",),
    native_backends=("cpu", "nvidia"),
    cost=norms.cost(2),
    cases=(
        cases(sizes=norms.SIZES, given=[(), ("weight",)], leads=norms.LEADS)
        + cases(sizes=[{"N": 65}], given=[("weight",)], options=[{"eps": 0.1}])
    ),
    error_cases=norms.error_cases("rms_norm", 1),
    benchmarks=tuple(
        Benchmark(
            name=name,
            case=Case(sizes={"N": n}, given=("weight",), lead=(m,)),
            dtype=dtype,
            use_out=out,
            hot=not out,
        )
        for dtype in (torch.bfloat16, torch.float32)
        for name, m, n, out in (
            ("512x1024", 512, 1024, False),
            ("4096x4096 out=", 4096, 4096, True),
        )
    )
    + norm_gradients.training_rows(("weight",)),
    doc="""
`y = x / sqrt(mean(x^2) + eps) * weight` over the last dimension (Zhang and Sennrich 2019;
`torch.nn.functional.rms_norm`).

`x` is `[..., N]`; `weight` is optional, `[N]`, of `x`'s dtype or float32. Computed in float32 and
rounded once, after the weight. With `out=`, `out` may be `x` itself.
""",
)
