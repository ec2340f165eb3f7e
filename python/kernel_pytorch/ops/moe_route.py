"""``kpt::moe_route``: which experts a token goes to, and with what weight."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.routing import SCORES, largest, scores_of, tokens_of
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, cases

_TINY = 1e-20


def _refuse(name: str, expected: str, got: int) -> None:
    raise ValueError(f"moe_route: argument '{name}' must be {expected}, got {got}")


def _check(
    logits: torch.Tensor,
    top_k: int,
    score: str,
    renormalize: bool,
    bias: torch.Tensor | None,
    num_groups: int,
    top_groups: int,
    scale: float,
) -> None:
    experts = logits.shape[1]
    if num_groups < 1 or experts % num_groups != 0:
        _refuse("num_groups", f"a divisor of the {experts} experts", num_groups)
    if not 1 <= top_groups <= num_groups:
        _refuse("top_groups", f"from 1 to {num_groups}", top_groups)
    eligible = experts // num_groups * top_groups
    if not 1 <= top_k <= eligible:
        _refuse("top_k", f"from 1 to {eligible}", top_k)


def _infer(logits: torch.Tensor, top_k: int, *_: Any, **__: Any) -> tuple[Out, Out]:
    shape = (logits.shape[0], top_k)
    return Out(shape, logits.dtype), Out(shape, torch.int64)


def _choose(
    values: torch.Tensor, top_k: int, with_bias: bool, num_groups: int, top_groups: int
) -> torch.Tensor:
    if top_groups == num_groups:
        return largest(values, top_k)
    grouped = values.unflatten(-1, (num_groups, -1))
    best = grouped.sort(dim=-1, descending=True).values
    worth = best[..., :2].sum(-1) if with_bias else best[..., 0]
    kept = torch.zeros_like(worth, dtype=torch.int8).scatter_(-1, largest(worth, top_groups), 1)
    kept = kept.repeat_interleave(grouped.shape[-1], dim=-1)
    order = largest(values, values.shape[-1])
    # Those of the kept groups first, in their order.
    return order.gather(-1, largest(kept.gather(-1, order), top_k))


def _route(
    logits: torch.Tensor,
    top_k: int,
    *,
    score: str = "softmax",
    renormalize: bool = True,
    bias: torch.Tensor | None = None,
    num_groups: int = 1,
    top_groups: int = 1,
    scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = scores_of(logits, score)
    with torch.no_grad():
        values = logits if bias is None else scores + bias
        indices = _choose(values, top_k, bias is not None, num_groups, top_groups)
    weights = scores.gather(-1, indices)
    if renormalize:
        weights = weights / (weights.sum(-1, keepdim=True) + _TINY)
    return weights * scale, indices


def _reference(
    logits: torch.Tensor,
    top_k: int,
    score: str = "softmax",
    renormalize: bool = True,
    bias: torch.Tensor | None = None,
    num_groups: int = 1,
    top_groups: int = 1,
    scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    weights, indices = _route(
        wide(logits),
        top_k,
        score=score,
        renormalize=renormalize,
        bias=bias,
        num_groups=num_groups,
        top_groups=top_groups,
        scale=scale,
    )
    return weights.to(logits.dtype), indices


def _eager(logits: torch.Tensor, top_k: int, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """As models write it: in float32, and topk where no groups are."""
    score, bias = options.get("score", "softmax"), options.get("bias")
    if options.get("top_groups", 1) < options.get("num_groups", 1):
        weights, indices = _route(logits.float(), top_k, **options)
        return weights.to(logits.dtype), indices
    scores = scores_of(logits.float(), score)
    if bias is None:
        weights, indices = scores.topk(top_k, dim=-1)
    else:
        indices = (scores + bias).topk(top_k, dim=-1).indices
        weights = scores.gather(-1, indices)
    if options.get("renormalize", True):
        weights = weights / (weights.sum(-1, keepdim=True) + _TINY)
    return (weights * options.get("scale", 1.0)).to(logits.dtype), indices


def _backward(
    grads: tuple[Any, ...],
    inputs: Mapping[str, Any],
    outputs: tuple[Any, ...],
    needed: Collection[str],
) -> dict[str, Any]:
    options = {name: inputs[name] for name in ("score", "renormalize", "scale")}
    return {
        "logits": torch.ops.kpt.moe_route_backward(
            grads[0], inputs["logits"], outputs[1], **options
        )
    }


def _cost(logits: torch.Tensor, top_k: int, *_: Any, **__: Any) -> Cost:
    tokens = logits.shape[0]
    return Cost(
        flops=8.0 * logits.numel(),
        read_bytes=logits.nbytes,
        write_bytes=tokens * top_k * (8 + logits.itemsize),
    )


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    experts = case.sizes["E"]
    logits = (2 * torch.randn((tokens_of(case), experts), generator=generator)).to(dtype)
    options = dict(case.options)
    if "bias" in case.given:
        options["bias"] = torch.rand(experts, generator=generator) * 0.2
    return [logits, case.sizes["top"]], options


def _refused(name: str, match: str, error: type[Exception] = ValueError, **given: Any) -> ErrorCase:
    def call(op: Callable[..., Any]) -> Any:
        arguments = {"logits": torch.ones(3, 8), "top_k": 2, **given}
        return op(arguments.pop("logits"), arguments.pop("top_k"), **arguments)

    return ErrorCase(name=name, call=call, error=error, match=f"moe_route: argument {match}")


_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"renormalize": False},
    {"score": "sigmoid"},
    {"score": "sigmoid", "renormalize": False, "scale": 2.5},
)

MOE_ROUTE = OpSpec(
    name="moe_route",
    family="moe",
    schema=(
        '(Tensor logits, int top_k, *, str score="softmax", bool renormalize=True, '
        "Tensor? bias=None, int num_groups=1, int top_groups=1, float scale=1.0) "
        "-> (Tensor weights, Tensor indices)"
    ),
    dims={"logits": "T E", "bias": "E"},
    arg_dtypes={"bias": (torch.float32,)},
    choices={"score": SCORES},
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_eager,
    backward="moe_route_backward",
    backward_call=_backward,
    backward_of=("logits",),
    saved=("logits", "indices"),
    cost=_cost,
    build_inputs=_build,
    cases=cases(
        sizes=[
            {"E": 1, "top": 1},
            {"E": 8, "top": 2},
            {"E": 17, "top": 3},
            {"E": 60, "top": 4},
            {"E": 256, "top": 8},
        ],
        options=_OPTIONS,
        leads=[(1,), (0,), (5,), (67,)],
    )
    + cases(
        sizes=[{"E": 8, "top": 2}, {"E": 256, "top": 8}],
        options=[
            {"num_groups": 4, "top_groups": 2},
            {"num_groups": 8, "top_groups": 4, "score": "sigmoid", "scale": 2.5},
            {"num_groups": 8, "top_groups": 8},
        ],
        given=[(), ("bias",)],
        leads=[(1,), (33,)],
    )
    + cases(sizes=[{"E": 17, "top": 3}], options=_OPTIONS, given=[("bias",)], leads=[(3,)]),
    error_cases=(
        _refused("no expert", "'top_k' must be from 1 to 8, got 0", top_k=0),
        _refused("more than there are", "'top_k' must be from 1 to 8, got 9", top_k=9),
        _refused("negative", "'top_k' must be from 1 to 8, got -1", top_k=-1),
        _refused(
            "groups that do not divide",
            "'num_groups' must be a divisor of the 8 experts, got 3",
            num_groups=3,
        ),
        _refused("no group", "'num_groups' must be a divisor of the 8 experts", num_groups=0),
        _refused("too many groups kept", "'top_groups' must be from 1 to 1, got 2", top_groups=2),
        _refused(
            "more than the groups hold",
            "'top_k' must be from 1 to 2, got 3",
            num_groups=4,
            top_k=3,
        ),
        _refused("unknown score", "'score' must be one of", score="linear"),
        _refused("short bias", "'bias' must have size 8 for E", bias=torch.ones(7)),
        _refused(
            "bias in half", "'bias' must have dtype float32", TypeError, bias=torch.ones(8).half()
        ),
        _refused("one dimension", "'logits' must have 2 dimensions", logits=torch.ones(8)),
        _refused("three dimensions", "'logits' must have 2 dimensions", logits=torch.ones(1, 3, 8)),
        _refused("without experts", "'top_k' must be from 1 to 0", logits=torch.ones(3, 0)),
    ),
    benchmarks=tuple(
        Benchmark(
            name=f"{tokens} tokens, {top} of {experts}{' with groups and bias' * grouped}",
            case=Case(
                sizes={"E": experts, "top": top},
                options={"num_groups": 8, "top_groups": 4, "score": "sigmoid"} if grouped else {},
                given=("bias",) if grouped else (),
                lead=(tokens,),
            ),
            dtype=torch.float32,
        )
        for tokens, experts, top, grouped in (
            (4096, 8, 2, False),
            (4096, 256, 8, True),
            (1, 256, 8, True),
        )
    ),
    doc="""
`s = softmax(logits)` or `sigmoid(logits)` over the experts. `indices[t]` are the `top_k` experts
with the largest `s + bias` (without a bias: the largest logits), largest first and the lower one
where equal; `weights[t]` are `s` at these, over their sum (plus 1e-20) when `renormalize`, times
`scale`. The bias, which balances the load, bears on the choice alone.

With `num_groups` groups of equally many experts, only those of the `top_groups` best are chosen
from; a group's worth is its largest value, with a bias the sum of its two largest. (DeepSeek-V2,
section 2.1.2; DeepSeek-V3, section 2.1.2.)

`logits` is `[T, E]` in float32, float16 or bfloat16, noise already added where it is wanted; `bias`
`[E]` float32; `weights` `[T, top_k]` in the dtype of the logits, `indices` int64. Computed in
float32. NaN counts as larger than all numbers in the choice and spreads to the weights as the
formulas have it. A token's result depends on its logits alone. `top_k` must be at least 1 and at
most as many experts as the kept groups hold.

The gradient of the logits is `moe_route_backward`; the choice itself has none.
""",
)
