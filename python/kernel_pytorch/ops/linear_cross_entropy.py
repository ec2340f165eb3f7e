"""``kpt::linear_cross_entropy`` and ``kpt::linear_cross_entropy_forward``: the loss of a linear
classifier without its logits; the second one also returns the logsumexp of each row, which the
backward needs, and runs where a gradient is wanted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from kernel_pytorch.ops import losses
from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, cases


def _infer(hidden: torch.Tensor, *, reduction: str, **_: Any) -> Out:
    return losses.reduced(hidden, reduction)


def _infer_both(hidden: torch.Tensor, *, reduction: str, **_: Any) -> tuple[Out, Out]:
    dtype = losses.loss_dtype(hidden)
    return losses.reduced(hidden, reduction), Out((hidden.shape[0],), dtype)


def _check(op: str) -> Callable[..., None]:
    def check(*, label_smoothing: float, z_loss: float, **_: Any) -> None:
        losses.check_options(op, label_smoothing, z_loss)

    return check


def _reference(
    hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, **kwargs: Any
) -> torch.Tensor:
    logits = F.linear(wide(hidden), wide(weight))
    return losses.loss_and_lse("linear_cross_entropy", logits, target, **kwargs)[0]


def _reference_both(
    hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = F.linear(wide(hidden), wide(weight))
    return losses.loss_and_lse("linear_cross_entropy_forward", logits, target, **kwargs)


def _eager(
    hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, **kwargs: Any
) -> torch.Tensor:
    return losses.eager_loss(F.linear(hidden, weight), target, **kwargs)


def _eager_both(
    hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = F.linear(hidden, weight)
    kept = target != kwargs.get("ignore_index", -100)
    lse = torch.where(kept, losses.eager_lse(wide(logits)), 0.0)
    return losses.eager_loss(logits, target, **kwargs), lse


def _eager_row(hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(hidden, weight), target)


def _backward(
    grads: tuple[torch.Tensor, ...],
    inputs: Mapping[str, Any],
    outputs: tuple[torch.Tensor, ...],
    needed: Collection[str],
) -> dict[str, torch.Tensor]:
    tensors = ("hidden", "weight", "target")
    wanted = ("hidden", "weight")
    found = torch.ops.kpt.linear_cross_entropy_backward(
        *(inputs[name] for name in tensors),
        outputs[1],
        *grads,
        **{name: value for name, value in inputs.items() if name not in tensors},
        **{f"want_{name}": name in needed for name in wanted},
    )
    return {name: g for name, g in zip(wanted, found) if name in needed}


def _cost(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    *,
    reduction: str = "mean",
    **_: Any,
) -> Cost:
    return Cost(
        flops=2.0 * hidden.shape[0] * weight.numel(),
        read_bytes=hidden.nbytes + weight.nbytes + target.nbytes,
        write_bytes=hidden.shape[0] * 4 if reduction == "none" else 4,
        compute="bf16" if hidden.dtype == torch.bfloat16 else "fp32",
    )


def _cost_both(
    hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, **kwargs: Any
) -> Cost:
    one = _cost(hidden, weight, target, reduction="none")
    return Cost(
        flops=one.flops,
        read_bytes=one.read_bytes,
        write_bytes=one.write_bytes + 4,
        compute=one.compute,
    )


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    return losses.linear_inputs(case, dtype, generator), dict(case.options)


_CASES = (
    cases(
        sizes=[
            {"N": n, "V": v, "D": d}
            for n, v, d in (
                (5, 33, 20),
                (0, 5, 4),
                (3, 0, 4),
                (3, 6, 0),
                (1, 1, 1),
                (1, 7, 33),
                (4, 70, 64),
                (9, 513, 17),
                (21, 1300, 40),
            )
        ],
        options=losses.LINEAR_OPTIONS,
        given=[(), ("some ignored",)],
        leads=[()],
    )
    + cases(
        sizes=[{"N": 4, "V": 9, "D": 5}],
        options=[{"reduction": "none"}, {"reduction": "sum"}],
        given=[("all ignored",)],
        leads=[()],
    )
    + cases(sizes=[{"N": 1030, "V": 530, "D": 24}], options=[{}], leads=[()])
)


def _errors(op: str) -> tuple[ErrorCase, ...]:
    def call(**changes: Any) -> Callable[[Callable[..., Any]], Any]:
        values = [changes.pop(name, t) for name, t in losses.linear_tensors().items()]
        return lambda run: run(*values, **changes)

    return (
        *losses.option_errors(op, call),
        *losses.linear_errors(op, call),
    )


_ROWS = tuple(
    Benchmark(
        name=f"N={n} V={v} D={d}",
        case=Case(sizes={"N": n, "V": v, "D": d}, lead=()),
        dtype=dtype,
        eager=_eager_row,
    )
    for dtype in (torch.bfloat16, torch.float32)
    for n, v, d in ((2048, 32000, 768), (2048, 128256, 1024))
)

_LAYOUT = """
`hidden` is `[N, D]` and `weight` `[V, D]` as in `nn.Linear`, both in float32, float16 or bfloat16,
rows at any stride. `target` is `[N]` in int64, any stride, each a class in `[0, V)` or
`ignore_index` (anything else raises ValueError with its position). The loss is float32 whatever the
dtype of the inputs: `[N]` for `reduction="none"`, else a scalar.

Logits are made in float32 for blocks of at most 1024 rows and 512 classes and taken into an online
logsumexp (Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", 2024): they are
never stored whole and never rounded. The workspace is the block, 2 MiB, and 32 bytes a row, beside
the panels of the matrix product.

bfloat16 products are sums of pairs where the CPU has such instructions; these take subnormal
numbers as 0. NaN and infinities come out as from the separate operators in float64. Within a native
variant a row's loss depends neither on the number of threads nor on the other rows; up to three
rows are summed more exactly than many, outside the bfloat16 variants.
"""

LINEAR_CROSS_ENTROPY = OpSpec(
    name="linear_cross_entropy",
    family="loss",
    schema=f"(Tensor hidden, Tensor weight, Tensor target, {losses.OPTIONS}) -> Tensor",
    dims={"hidden": "N D", "weight": "V D", "target": "N"},
    arg_dtypes={"target": (torch.int64,)},
    choices={"reduction": losses.REDUCTIONS},
    check=_check("linear_cross_entropy"),
    infer=_infer,
    reference=_reference,
    eager=_eager,
    training="linear_cross_entropy_forward",
    autocast=True,
    cost=_cost,
    build_inputs=_build,
    free_sizes=("N", "V", "D"),
    row_dims=None,
    cases=_CASES,
    error_cases=_errors("linear_cross_entropy"),
    benchmarks=_ROWS,
    doc=f"""
`cross_entropy` of the logits `hidden @ weight.T`, which are never stored: the last layer of a
language model and its loss in one.
{losses.FORMULA}{_LAYOUT}""",
)

LINEAR_CROSS_ENTROPY_FORWARD = OpSpec(
    name="linear_cross_entropy_forward",
    family="loss",
    schema=(
        f"(Tensor hidden, Tensor weight, Tensor target, {losses.OPTIONS}) "
        "-> (Tensor loss, Tensor lse)"
    ),
    dims={"hidden": "N D", "weight": "V D", "target": "N"},
    arg_dtypes={"target": (torch.int64,)},
    choices={"reduction": losses.REDUCTIONS},
    check=_check("linear_cross_entropy_forward"),
    infer=_infer_both,
    reference=_reference_both,
    eager=_eager_both,
    backward="linear_cross_entropy_backward",
    backward_call=_backward,
    saved=("hidden", "weight", "target", "lse"),
    autocast=True,
    cost=_cost_both,
    build_inputs=_build,
    free_sizes=("N", "V", "D"),
    row_dims=None,
    cases=_CASES,
    error_cases=_errors("linear_cross_entropy_forward"),
    benchmarks=_ROWS,
    doc=f"""
`linear_cross_entropy` and the logsumexp of each row, `lse`, `[N]` in float32, 0 for ignored rows;
what runs in its place where a gradient is wanted. Both outputs are differentiable.
{losses.FORMULA}{_LAYOUT}""",
)
