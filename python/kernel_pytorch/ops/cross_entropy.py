"""``kpt::cross_entropy`` and ``kpt::cross_entropy_forward``: a classifier's loss over its logits.

The second one also returns the logsumexp of each row, which makes the backward a single pass: it
is what runs where a gradient is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from kernel_pytorch.ops import losses
from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, cases


def _infer(logits: torch.Tensor, target: torch.Tensor, *, reduction: str, **_: Any) -> Out:
    return losses.reduced(logits, reduction)


def _infer_both(
    logits: torch.Tensor, target: torch.Tensor, *, reduction: str, **_: Any
) -> tuple[Out, Out]:
    dtype = losses.loss_dtype(logits)
    return losses.reduced(logits, reduction), Out((logits.shape[0],), dtype)


def _check(op: str) -> Callable[..., None]:
    def check(*, label_smoothing: float, z_loss: float, **_: Any) -> None:
        losses.check_options(op, label_smoothing, z_loss)

    return check


def _reference(*args: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    return losses.loss_and_lse("cross_entropy", *args, **kwargs)[0]


def _reference_both(*args: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return losses.loss_and_lse("cross_entropy_forward", *args, **kwargs)


def _eager_both(
    logits: torch.Tensor, target: torch.Tensor, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    kept = target != kwargs.get("ignore_index", -100)
    lse = torch.where(kept, losses.eager_lse(wide(logits)), 0.0)
    return losses.eager_loss(logits, target, **kwargs), lse


def _backward(
    grads: tuple[torch.Tensor, ...],
    inputs: Mapping[str, Any],
    outputs: tuple[torch.Tensor, ...],
    needed: Collection[str],
) -> dict[str, torch.Tensor]:
    options = {k: v for k, v in inputs.items() if k not in ("logits", "target")}
    return {
        "logits": torch.ops.kpt.cross_entropy_backward(
            inputs["logits"], inputs["target"], outputs[1], *grads, **options
        )
    }


def _cost(logits: torch.Tensor, target: torch.Tensor, *, reduction: str = "mean", **_: Any) -> Cost:
    written = logits.shape[0] * 4 if reduction == "none" else 4
    return Cost(read_bytes=logits.nbytes + target.nbytes, write_bytes=written)


def _cost_both(logits: torch.Tensor, target: torch.Tensor, **_: Any) -> Cost:
    return Cost(read_bytes=logits.nbytes + target.nbytes, write_bytes=logits.shape[0] * 4 + 4)


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    rows, classes = case.sizes["N"], case.sizes["V"]
    logits = (2.0 * torch.randn(rows, classes, generator=generator)).to(dtype)
    target = losses.make_targets(case, rows, classes, generator)
    return [logits, target], dict(case.options)


_CASES = (
    cases(
        sizes=[
            {"N": n, "V": v}
            for n, v in (
                (0, 5),
                (3, 0),
                (1, 1),
                (1, 7),
                (4, 16),
                (5, 33),
                (3, 130),
                (7, 1000),
                (2, 2048),
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
        given=[(), ("some ignored",)],
        leads=[()],
    )
    + cases(
        sizes=[{"N": 4, "V": 9}],
        options=[{"reduction": "none"}, {"reduction": "sum"}],
        given=[("all ignored",)],
        leads=[()],
    )
    + cases(sizes=[{"N": 3, "V": 40}], options=[{"label_smoothing": 1.0}], leads=[()])
)


def _errors(op: str) -> tuple[ErrorCase, ...]:
    def call(**changes: Any) -> Callable[[Callable[..., Any]], Any]:
        target = changes.pop("target", torch.tensor([0, 4, 2]))
        return lambda run: run(torch.ones(3, 5), target, **changes)

    return (
        *losses.option_errors(op, call),
        ErrorCase(
            name="classes in the second of three dimensions",
            call=lambda run: run(torch.ones(2, 5, 3), torch.zeros(2, 3, dtype=torch.int64)),
            error=ValueError,
            match=f"{op}: argument 'logits' must have 2 dimensions",
        ),
        ErrorCase(
            name="a target for no class",
            call=lambda run: run(torch.ones(1, 0), torch.tensor([0])),
            error=ValueError,
            match=rf"{op}: argument 'target' must hold classes in \[0, 0\)",
        ),
        ErrorCase(
            name="logits transposed",
            call=lambda run: run(torch.ones(5, 3).t(), torch.tensor([0, 1, 2])),
            error=ValueError,
            match=f"{op}: argument 'logits' must have a dense last dimension",
        ),
    )


_ROWS = tuple(
    Benchmark(
        name=f"N={n} V={v}",
        case=Case(sizes={"N": n, "V": v}, lead=()),
        dtype=dtype,
        eager=F.cross_entropy,
    )
    for dtype in (torch.bfloat16, torch.float32)
    for n, v in ((2048, 32000), (512, 128256))
)


_LAYOUT = """
`logits` is `[N, V]` in float32, float16 or bfloat16, rows at any stride; classes stand in the last
dimension. `target` is `[N]` in int64, any stride, each a class in `[0, V)` or `ignore_index`
(anything else raises ValueError with its position). The loss is float32 whatever the dtype of the
logits: `[N]` for `reduction="none"`, else a scalar.

Computed in float32 in one pass over the logits, by an online logsumexp (Milakov and Gimelshein
2018). Rows that are ignored are not read. A row that holds NaN or +inf, or nothing but -inf, has
loss NaN, as in PyTorch. A row's loss depends neither on the other rows nor on the threads.
"""

CROSS_ENTROPY = OpSpec(
    name="cross_entropy",
    family="loss",
    schema=f"(Tensor logits, Tensor target, {losses.OPTIONS}) -> Tensor",
    dims={"logits": "N V", "target": "N"},
    arg_dtypes={"target": (torch.int64,)},
    choices={"reduction": losses.REDUCTIONS},
    check=_check("cross_entropy"),
    infer=_infer,
    reference=_reference,
    eager=losses.eager_loss,
    training="cross_entropy_forward",
    cost=_cost,
    build_inputs=_build,
    free_sizes=("N", "V"),
    row_dims=None,
    cases=_CASES,
    error_cases=_errors("cross_entropy"),
    benchmarks=_ROWS,
    doc=f"""
The loss of a classifier over its logits.
{losses.FORMULA}{_LAYOUT}
For logits that are a linear layer's output, `linear_cross_entropy` never stores them.
""",
)

CROSS_ENTROPY_FORWARD = OpSpec(
    name="cross_entropy_forward",
    family="loss",
    schema=f"(Tensor logits, Tensor target, {losses.OPTIONS}) -> (Tensor loss, Tensor lse)",
    dims={"logits": "N V", "target": "N"},
    arg_dtypes={"target": (torch.int64,)},
    choices={"reduction": losses.REDUCTIONS},
    check=_check("cross_entropy_forward"),
    infer=_infer_both,
    reference=_reference_both,
    eager=_eager_both,
    backward="cross_entropy_backward",
    backward_call=_backward,
    saved=("logits", "target", "lse"),
    cost=_cost_both,
    build_inputs=_build,
    free_sizes=("N", "V"),
    row_dims=None,
    cases=_CASES,
    error_cases=_errors("cross_entropy_forward"),
    benchmarks=_ROWS,
    doc=f"""
`cross_entropy` and the logsumexp of each row, `lse`, `[N]` in float32, 0 for ignored rows; what
runs in its place where a gradient is wanted. Both outputs are differentiable.
{losses.FORMULA}{_LAYOUT}""",
)
