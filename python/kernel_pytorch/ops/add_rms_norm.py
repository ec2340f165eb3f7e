"""``kpt::add_rms_norm``: a residual addition and rms_norm of the sum in one pass."""

from __future__ import annotations

import torch

from kernel_pytorch.ops import norm_gradients, norms
from kernel_pytorch.ops.spec import Benchmark, Case, OpSpec, Out, cases


def _infer(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
) -> tuple[Out, Out]:
    return Out(x.shape, x.dtype), Out(x.shape, x.dtype)


def _eager(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None = None,
    eps: float = 1e-6,
) -> tuple[torch.Tensor, torch.Tensor]:
    new_residual = x + residual
    y = norms.rms_norm(eps)(new_residual, *norms.in_dtype_of(x, weight))
    return y, new_residual


def _reference(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor | None = None,
    eps: float = 1e-6,
) -> tuple[torch.Tensor, torch.Tensor]:
    new_residual = x + residual
    return norms.wide(norms.rms_norm(eps), new_residual, weight), new_residual


_GIVEN = ("weight",)

ADD_RMS_NORM = OpSpec(
    name="add_rms_norm",
    family="norm",
    schema=(
        "(Tensor x, Tensor residual, Tensor? weight=None, float eps=1e-6) "
        "-> (Tensor y, Tensor new_residual)"
    ),
    dims={"x": "...M N", "residual": "...M N", "weight": "N"},
    arg_dtypes={"weight": norms.PARAM_DTYPES},
    infer=_infer,
    reference=_reference,
    eager=_eager,
    backward="rms_norm_backward",
    backward_call=norm_gradients.of_rms_norm,
    saved=("weight", "new_residual"),
    free_sizes=("N",),
    native_backends=("cpu", "nvidia"),
    cost=norms.cost(4),
    cases=(
        cases(sizes=norms.SIZES, given=[(), _GIVEN], leads=norms.LEADS)
        + cases(sizes=[{"N": 65}], given=[("weight",)], options=[{"eps": 0.1}])
    ),
    error_cases=norms.error_cases("add_rms_norm", 2),
    benchmarks=tuple(
        Benchmark(
            name=name, case=Case(sizes={"N": n}, given=_GIVEN, lead=(m,)), dtype=dtype, hot=True
        )
        for dtype in (torch.bfloat16, torch.float32)
        for name, m, n in (("512x1024", 512, 1024), ("4096x384", 4096, 384))
    )
    + norm_gradients.training_rows(("weight",)),
    doc="""
`new_residual = x + residual`, rounded to its dtype, and `y = rms_norm(new_residual)`: the values
of `h = x + residual; rms_norm(h)`, in one pass over memory.

`x` and `residual` are `[..., N]` of one dtype; parameters as in `rms_norm`. Everything else is
computed in float32 and rounded once.
""",
)
