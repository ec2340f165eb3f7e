"""``kpt::linear_cross_entropy_backward``: the gradients under ``linear_cross_entropy_forward``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from kernel_pytorch.ops import losses
from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, Tolerance, cases

_NAME = "linear_cross_entropy_backward"


def _infer(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    *,
    want_hidden: bool,
    want_weight: bool,
    **_: Any,
) -> tuple[Out, Out]:
    return (
        Out(hidden.shape if want_hidden else (0,), hidden.dtype),
        Out(weight.shape if want_weight else (0,), hidden.dtype),
    )


def _check(
    *,
    hidden: torch.Tensor,
    grad_loss: torch.Tensor,
    label_smoothing: float,
    z_loss: float,
    reduction: str,
    **_: Any,
) -> None:
    losses.check_options(_NAME, label_smoothing, z_loss)
    losses.check_grad_loss(_NAME, grad_loss, hidden, reduction)


def _reference(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    lse: torch.Tensor,
    grad_loss: torch.Tensor,
    grad_lse: torch.Tensor,
    *,
    want_hidden: bool = True,
    want_weight: bool = True,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    x, w = wide(hidden), wide(weight)
    grad = losses.grad_logits(_NAME, F.linear(x, w), target, lse, grad_loss, grad_lse, **kwargs)
    none = hidden.new_empty(0)
    return (
        (grad @ w).to(hidden.dtype) if want_hidden else none,
        (grad.t() @ x).to(hidden.dtype) if want_weight else none,
    )


def _eager(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    lse: torch.Tensor,
    grad_loss: torch.Tensor,
    grad_lse: torch.Tensor,
    *,
    want_hidden: bool = True,
    want_weight: bool = True,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Autograd through what users write for the forward."""
    none = hidden.new_empty(0)
    if hidden.shape[0] == 0 or weight.shape[0] == 0:
        grads = torch.zeros_like(hidden), torch.zeros_like(weight)
    else:
        with torch.inference_mode(False), torch.enable_grad():
            x, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
            logits = F.linear(x, w)
            loss = losses.eager_loss(logits, target, **kwargs)
            kept = target != kwargs.get("ignore_index", -100)
            lse = torch.where(kept, losses.eager_lse(wide(logits)), 0.0)
            grads = torch.autograd.grad((loss, lse), (x, w), (grad_loss.clone(), grad_lse.clone()))
    return grads[0] if want_hidden else none, grads[1] if want_weight else none


def _train(hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> Any:
    """A whole step in eager PyTorch, forward and backward."""
    with torch.inference_mode(False), torch.enable_grad():
        loss = F.cross_entropy(F.linear(hidden, weight), target)
        return torch.autograd.grad(loss, (hidden, weight))


def _leaves(
    hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode(False):
        return (
            hidden.clone().requires_grad_(),
            weight.clone().requires_grad_(),
            target.clone(),
        )


def _cost(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    *_: Any,
    want_hidden: bool = True,
    want_weight: bool = True,
    **__: Any,
) -> Cost:
    """Counts the logits that are made again as work."""
    return Cost(
        flops=2.0 * hidden.shape[0] * weight.numel() * (1 + want_hidden + want_weight),
        read_bytes=hidden.nbytes + weight.nbytes,
        write_bytes=hidden.nbytes * want_hidden + weight.nbytes * want_weight,
        compute="bf16" if hidden.dtype == torch.bfloat16 else "fp32",
    )


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    hidden, weight, target = losses.linear_inputs(case, dtype, generator)
    rows = hidden.shape[0]
    kept = target != case.options.get("ignore_index", -100)
    lse = torch.where(kept, losses.eager_lse(F.linear(wide(hidden), wide(weight))), 0.0)
    shape = (rows,) if case.options.get("reduction") == "none" else ()
    grad_loss = torch.randn(shape, generator=generator, dtype=lse.dtype)
    grad_lse = torch.zeros_like(lse)
    if "grad_lse" in case.given:
        grad_lse.normal_(generator=generator)
    return [hidden, weight, target, lse, grad_loss, grad_lse], dict(case.options)


def _errors() -> tuple[ErrorCase, ...]:
    def call(**changes: Any) -> Callable[[Callable[..., Any]], Any]:
        tensors = {
            **losses.linear_tensors(),
            "lse": torch.ones(3),
            "grad_loss": torch.tensor(1.0),
            "grad_lse": torch.zeros(3),
        }
        values = [changes.pop(name, value) for name, value in tensors.items()]
        return lambda run: run(*values, **changes)

    return (
        *losses.option_errors(_NAME, call),
        *losses.grad_loss_errors(_NAME, call),
        *losses.linear_errors(_NAME, call),
    )


LINEAR_CROSS_ENTROPY_BACKWARD = OpSpec(
    name=_NAME,
    family="loss",
    schema=(
        "(Tensor hidden, Tensor weight, Tensor target, Tensor lse, Tensor grad_loss, "
        f"Tensor grad_lse, {losses.OPTIONS}, bool want_hidden=True, bool want_weight=True) "
        "-> (Tensor grad_hidden, Tensor grad_weight)"
    ),
    dims={"hidden": "N D", "weight": "V D", "target": "N", "lse": "N", "grad_lse": "N"},
    arg_dtypes={
        "target": (torch.int64,),
        "lse": (torch.float32,),
        "grad_loss": (torch.float32,),
        "grad_lse": (torch.float32,),
    },
    choices={"reduction": losses.REDUCTIONS},
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_eager,
    # The exponentials carry the rounding of the logits, made again, and of lse, once each.
    tolerance=Tolerance(floor_ulp=4.0),
    cost=_cost,
    build_inputs=_build,
    # With one class the gradient is 0, and nothing is left but what cancels.
    free_sizes=("N", "D"),
    row_dims=None,
    cases=cases(
        sizes=[
            {"N": n, "V": v, "D": d}
            for n, v, d in (
                (5, 33, 20),
                (0, 5, 4),
                (3, 0, 4),
                (3, 6, 0),
                (1, 7, 33),
                (4, 70, 64),
                (9, 513, 17),
                (21, 1300, 40),
            )
        ],
        options=losses.LINEAR_OPTIONS,
        given=[(), ("some ignored", "grad_lse")],
        leads=[()],
    )
    + cases(
        sizes=[{"N": 4, "V": 9, "D": 5}],
        options=[{"reduction": "none"}, {"reduction": "sum"}],
        given=[("all ignored",)],
        leads=[()],
    )
    + cases(
        sizes=[{"N": 6, "V": 40, "D": 12}],
        options=[{"want_hidden": False}, {"want_weight": False}],
        leads=[()],
    )
    + cases(sizes=[{"N": 1030, "V": 530, "D": 24}], options=[{}], leads=[()]),
    error_cases=_errors(),
    benchmarks=tuple(
        Benchmark(
            name=f"N={n} V={v} D={d}",
            case=Case(sizes={"N": n, "V": v, "D": d}, lead=()),
            dtype=dtype,
            eager=_train,
            eager_inputs=_leaves,
        )
        for dtype in (torch.bfloat16, torch.float32)
        for n, v, d in ((2048, 32000, 768), (2048, 128256, 1024))
    ),
    doc="""
The gradients of `hidden` and `weight` of `linear_cross_entropy_forward`, from those of its outputs:
with `grad`, the gradient of the logits that `cross_entropy_backward` states,

    grad_hidden = grad @ weight        grad_weight = grad.T @ hidden

Blocks of the logits are made again and turned into blocks of `grad`: four matrix products for the
forward and the backward where PyTorch, which stores the logits, has three.

The tensors and options are those of the forward, and `lse` its second output; `grad_loss` is `[N]`
for `reduction="none"`, else a scalar, and `grad_lse` `[N]`, both float32. The results have the
shapes and dtypes of `hidden` and `weight`; one that `want_hidden` or `want_weight` turns off is not
computed and comes as `[0]`.

Sums are float32 and rounded once. Where the CPU multiplies bfloat16 pairs, `grad` is rounded to
bfloat16 for the products, as in PyTorch; elsewhere it stays float32. A row of `grad_hidden` depends
neither on the number of threads nor on the other rows (up to three rows are summed more exactly
than many, outside the bfloat16 variants), `grad_weight` not on the number of threads.

Workspace in bytes, with `R = min(N, 1024)`, `C = min(V, 512)` and `e` 2 where bfloat16 pairs are
multiplied, else 4: `4 R (C + 48)` for the block, `C (e R + 192)` for its transpose, in half
precision also `4 N D` and, where `N > R`, `4 C D` for sums, `4 (R + C) D` for copies in float32
where no bfloat16 pairs are multiplied, and `64 N`; beside the panels of the matrix products. None
of it grows with `N V`.
""",
)
