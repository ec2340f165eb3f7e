"""``kpt::cross_entropy_backward``: the gradient of the logits under ``cross_entropy_forward``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kernel_pytorch.ops import losses
from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, cases

_NAME = "cross_entropy_backward"


def _infer(logits: torch.Tensor, *_: Any, **__: Any) -> Out:
    return Out(logits.shape, logits.dtype)


def _check(
    *,
    grad_loss: torch.Tensor,
    logits: torch.Tensor,
    label_smoothing: float,
    z_loss: float,
    reduction: str,
    **_: Any,
) -> None:
    losses.check_options(_NAME, label_smoothing, z_loss)
    losses.check_grad_loss(_NAME, grad_loss, logits, reduction)


def _reference(logits: torch.Tensor, *args: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    return losses.grad_logits(_NAME, logits, *args, **kwargs).to(logits.dtype)


def _eager(
    logits: torch.Tensor,
    target: torch.Tensor,
    lse: torch.Tensor,
    grad_loss: torch.Tensor,
    grad_lse: torch.Tensor,
    **kwargs: Any,
) -> torch.Tensor:
    """Autograd through what users write for the forward."""
    if logits.numel() == 0:
        return torch.zeros_like(logits)
    with torch.inference_mode(False), torch.enable_grad():
        x = logits.clone().requires_grad_()
        loss = losses.eager_loss(x, target, **kwargs)
        kept = target != kwargs.get("ignore_index", -100)
        lse = torch.where(kept, losses.eager_lse(wide(x)), 0.0)
        (grad,) = torch.autograd.grad((loss, lse), x, (grad_loss.clone(), grad_lse.clone()))
    return grad


def _eager_row(
    logits: torch.Tensor,
    target: torch.Tensor,
    lse: torch.Tensor,
    grad_loss: torch.Tensor,
    grad_lse: torch.Tensor,
    **_: Any,
) -> torch.Tensor:
    """What autograd runs for the mean of ``F.cross_entropy``, with the log-softmax that its forward
    has left (here: the logits, which cost as much)."""
    aten = torch.ops.aten
    total = torch.tensor(float(target.shape[0]), dtype=logits.dtype)
    grad = aten.nll_loss_backward(grad_loss.to(logits.dtype), logits, target, None, 1, -100, total)
    return aten._log_softmax_backward_data(grad, logits, 1, logits.dtype)


def _cost(logits: torch.Tensor, *_: Any, **__: Any) -> Cost:
    return Cost(read_bytes=logits.nbytes, write_bytes=logits.nbytes)


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    rows, classes = case.sizes["N"], case.sizes["V"]
    logits = (2.0 * torch.randn(rows, classes, generator=generator)).to(dtype)
    target = losses.make_targets(case, rows, classes, generator)
    kept = target != case.options.get("ignore_index", -100)
    lse = torch.where(kept, losses.eager_lse(wide(logits)), 0.0)
    shape = (rows,) if case.options.get("reduction") == "none" else ()
    grad_loss = torch.randn(shape, generator=generator, dtype=lse.dtype)
    grad_lse = torch.zeros_like(lse)
    if "grad_lse" in case.given:
        grad_lse.normal_(generator=generator)
    return [logits, target, lse, grad_loss, grad_lse], dict(case.options)


def _errors() -> tuple[ErrorCase, ...]:
    def call(**changes: Any) -> Callable[[Callable[..., Any]], Any]:
        tensors = {
            "logits": torch.ones(3, 5),
            "target": torch.tensor([0, 4, 2]),
            "lse": torch.ones(3),
            "grad_loss": torch.tensor(1.0),
            "grad_lse": torch.zeros(3),
        }
        values = [changes.pop(name, value) for name, value in tensors.items()]
        return lambda run: run(*values, **changes)

    return (
        *losses.option_errors(_NAME, call),
        *losses.grad_loss_errors(_NAME, call),
        ErrorCase(
            name="lse of another length",
            call=call(lse=torch.ones(4)),
            error=ValueError,
            match=f"{_NAME}: argument 'lse' must have size 3 for N",
        ),
        ErrorCase(
            name="lse in half precision",
            call=call(lse=torch.ones(3).half()),
            error=TypeError,
            match=f"{_NAME}: argument 'lse' must have dtype float32, got float16",
        ),
    )


CROSS_ENTROPY_BACKWARD = OpSpec(
    name=_NAME,
    family="loss",
    schema=(
        "(Tensor logits, Tensor target, Tensor lse, Tensor grad_loss, Tensor grad_lse, "
        f"{losses.OPTIONS}) -> Tensor"
    ),
    dims={"logits": "N V", "target": "N", "lse": "N", "grad_lse": "N"},
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
    out_overload=True,
    cost=_cost,
    build_inputs=_build,
    free_sizes=("N", "V"),
    row_dims=None,
    cases=cases(
        sizes=[
            {"N": n, "V": v}
            for n, v in (
                (4, 16),
                (0, 5),
                (3, 0),
                (1, 1),
                (1, 7),
                (5, 33),
                (3, 130),
                (7, 1000),
                (3, 5003),
            )
        ],
        options=[
            {},
            {"reduction": "none"},
            {"reduction": "sum", "label_smoothing": 0.1},
            {"label_smoothing": 0.25, "z_loss": 1e-2},
            {"reduction": "none", "z_loss": 1e-3, "ignore_index": 0},
        ],
        given=[(), ("some ignored", "grad_lse")],
        leads=[()],
    )
    + cases(
        sizes=[{"N": 4, "V": 9}],
        options=[{"reduction": "none"}, {"reduction": "sum"}],
        given=[("all ignored",)],
        leads=[()],
    ),
    error_cases=_errors(),
    benchmarks=tuple(
        Benchmark(
            name=f"N={n} V={v}" + (" out=" if use_out else ""),
            case=Case(sizes={"N": n, "V": v}, lead=()),
            dtype=dtype,
            eager=_eager_row,
            use_out=use_out,
        )
        for dtype in (torch.bfloat16, torch.float32)
        for n, v in ((2048, 32000), (512, 128256))
        for use_out in (True, False)
    ),
    doc="""
The gradient of the logits of `cross_entropy_forward`, from the gradients of its outputs:

    g        = grad_loss, for the mean divided by the number of rows that are not ignored
    grad[j]  = (g * (1 + 2 * z_loss * lse) + grad_lse) * exp(x[j] - lse)
               - g * label_smoothing / V - (g * (1 - label_smoothing) if j == target else 0)

`logits` and `target` are those of the forward and `lse` its second output; `grad_loss` is `[N]` for
`reduction="none"`, else a scalar, and `grad_lse` `[N]`, both float32. The result has the shape and
dtype of `logits`; with `out=`, `out` may be `logits` itself, and no new memory is touched. One
pass, computed in float32 and rounded once; the exponentials carry the rounding of `lse` to float32,
half a unit in its last place. Rows that are ignored get zeros, whatever their logits. A row's
gradient depends neither on the other rows nor on the threads.
""",
)
