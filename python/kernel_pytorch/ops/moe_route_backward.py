"""``kpt::moe_route_backward``: the gradient of the logits under ``kpt::moe_route``."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.routing import SCORES, bounded, choices_of, scores_of, tokens_of
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, cases

_TINY = 1e-20


def _infer(grad_weights: torch.Tensor, logits: torch.Tensor, *_: Any, **__: Any) -> Out:
    return Out(logits.shape, logits.dtype)


def _gradient(
    grad_weights: torch.Tensor,
    logits: torch.Tensor,
    indices: torch.Tensor,
    score: str = "softmax",
    renormalize: bool = True,
    scale: float = 1.0,
) -> torch.Tensor:
    indices = bounded("moe_route_backward", "indices", indices, 0, logits.shape[1], "experts")
    scores = scores_of(logits, score)
    chosen = scores.gather(-1, indices)
    of_chosen = grad_weights * scale
    if renormalize:
        total = chosen.sum(-1, keepdim=True) + _TINY
        of_chosen = (of_chosen - (of_chosen * chosen / total).sum(-1, keepdim=True)) / total
    of_scores = torch.zeros_like(scores).scatter(-1, indices, of_chosen)
    if score == "sigmoid":
        return of_scores * scores * (1 - scores)
    return scores * (of_scores - (of_scores * scores).sum(-1, keepdim=True))


def _reference(
    grad_weights: torch.Tensor,
    logits: torch.Tensor,
    indices: torch.Tensor,
    score: str = "softmax",
    renormalize: bool = True,
    scale: float = 1.0,
) -> torch.Tensor:
    found = _gradient(wide(grad_weights), wide(logits), indices, score, renormalize, scale)
    return found.to(logits.dtype)


def _eager(
    grad_weights: torch.Tensor, logits: torch.Tensor, indices: torch.Tensor, **options: Any
) -> torch.Tensor:
    """As autograd runs it for a router in float32."""
    return _gradient(grad_weights.float(), logits.float(), indices, **options).to(logits.dtype)


def _cost(
    grad_weights: torch.Tensor, logits: torch.Tensor, indices: torch.Tensor, *_: Any, **__: Any
) -> Cost:
    return Cost(
        flops=12.0 * logits.numel(),
        read_bytes=logits.nbytes + grad_weights.nbytes + indices.nbytes,
        write_bytes=logits.nbytes,
    )


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    tokens, experts = tokens_of(case), case.sizes["E"]
    logits = (2 * torch.randn((tokens, experts), generator=generator)).to(dtype)
    grad = torch.randn((tokens, case.sizes["top"]), generator=generator).to(dtype)
    return [grad, logits, choices_of(case, generator)], dict(case.options)


def _refused(name: str, match: str, error: type[Exception] = ValueError, **given: Any) -> ErrorCase:
    arguments = {
        "grad_weights": torch.ones(3, 2),
        "logits": torch.ones(3, 8),
        "indices": torch.tensor([[0, 1], [2, 3], [4, 7]]),
        **given,
    }
    options = {k: arguments.pop(k) for k in ("score",) if k in arguments}
    return ErrorCase(
        name=name,
        call=lambda op: op(*arguments.values(), **options),
        error=error,
        match=f"moe_route_backward: argument {match}",
    )


MOE_ROUTE_BACKWARD = OpSpec(
    name="moe_route_backward",
    family="moe",
    schema=(
        '(Tensor grad_weights, Tensor logits, Tensor indices, *, str score="softmax", '
        "bool renormalize=True, float scale=1.0) -> Tensor"
    ),
    dims={"grad_weights": "T K", "logits": "T E", "indices": "T K"},
    arg_dtypes={"indices": (torch.int64,)},
    choices={"score": SCORES},
    infer=_infer,
    reference=_reference,
    eager=_eager,
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
        options=[
            {},
            {"renormalize": False},
            {"score": "sigmoid"},
            {"score": "sigmoid", "renormalize": False, "scale": 2.5},
        ],
        leads=[(1,), (0,), (5,), (67,)],
    ),
    error_cases=(
        _refused(
            "expert beyond the last",
            r"'indices' must be from 0 to 7, below the 8 experts, got 8 at \[1, 1\]",
            indices=torch.tensor([[0, 1], [2, 8], [4, 7]]),
        ),
        _refused(
            "expert below the first",
            r"'indices' must be from 0 to 7, below the 8 experts, got -1 at \[0, 0\]",
            indices=torch.tensor([[-1, 1], [2, 3], [4, 7]]),
        ),
        _refused("unknown score", "'score' must be one of", score="linear"),
        _refused("other tokens", "'logits' must have size 3 for T", logits=torch.ones(4, 8)),
        _refused(
            "other choices", "'indices' must have size 2 for K", indices=torch.zeros(3, 3).long()
        ),
        _refused(
            "choices of 32 bits",
            "'indices' must have dtype int64",
            TypeError,
            indices=torch.zeros(3, 2, dtype=torch.int32),
        ),
    ),
    benchmarks=tuple(
        Benchmark(
            name=f"4096 tokens, {top} of {experts}",
            case=Case(sizes={"E": experts, "top": top}, lead=(4096,)),
            dtype=torch.float32,
        )
        for experts, top in ((8, 2), (256, 8))
    ),
    doc="""
With `s` the scores and `w` the weights of `moe_route`, the gradient of `s` at a chosen expert is
`scale * grad_weights`, less `scale` times the mean of `grad_weights` under the weights, over the
sum of the chosen scores, when `renormalize`; 0 at the others. From there it goes through the
softmax (to all experts) or the sigmoid (to the chosen ones).

`grad_weights` is `[T, K]`, `logits` `[T, E]` in the same dtype, `indices` `[T, K]` int64 as
`moe_route` gave them, each expert once in a row (`ValueError` for one that does not exist).
Computed in float32.
""",
)
