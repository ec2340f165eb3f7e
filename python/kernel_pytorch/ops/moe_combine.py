"""``kpt::moe_combine``: what the experts made of a token, weighted and added."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.routing import bounded, choices_of, dispatched
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, cases

__all__ = ["MOE_COMBINE", "combine_inputs", "combine_refusals"]


def _infer(y: torch.Tensor, row_of: torch.Tensor, weights: torch.Tensor) -> Out:
    return Out((row_of.shape[0], y.shape[1]), y.dtype)


def _combine(y: torch.Tensor, row_of: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    if not len(y):
        return y.new_zeros(len(row_of), y.shape[1])
    there = (row_of >= 0)[..., None]
    parts = y[row_of.clamp(min=0)] * weights[..., None]
    return torch.where(there, parts, torch.zeros_like(parts)).sum(1)


def _reference(y: torch.Tensor, row_of: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    row_of = bounded("moe_combine", "row_of", row_of, -1, len(y), "rows of 'y'")
    return _combine(wide(y), row_of, wide(weights)).to(y.dtype)


def _eager(y: torch.Tensor, row_of: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return _combine(y, row_of, weights.to(y.dtype))


def _backward(
    grads: tuple[Any, ...],
    inputs: Mapping[str, Any],
    outputs: tuple[Any, ...],
    needed: Collection[str],
) -> dict[str, Any]:
    wanted = ("y", "weights")
    found = torch.ops.kpt.moe_combine_backward(
        grads[0],
        inputs["y"],
        inputs["row_of"],
        inputs["weights"],
        *(name in needed for name in wanted),
    )
    return {name: g for name, g in zip(wanted, found) if name in needed}


def _cost(y: torch.Tensor, row_of: torch.Tensor, weights: torch.Tensor) -> Cost:
    used = row_of.numel() * y.shape[1]
    return Cost(
        flops=2.0 * used,
        read_bytes=used * y.itemsize + row_of.nbytes + weights.nbytes,
        write_bytes=row_of.shape[0] * y.shape[1] * y.itemsize,
    )


def combine_inputs(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """y, row_of and weights of a case; with "capacity" in its sizes some choices are dropped."""
    indices = choices_of(case, generator)
    _, _, row_of = dispatched(indices, case.sizes["E"], case.sizes.get("capacity", -1))
    rows = row_of.numel() + case.sizes.get("spare", 0)
    y = torch.randn((rows, case.sizes["D"]), generator=generator).to(dtype)
    weights = torch.rand(row_of.shape, generator=generator)
    return y, row_of, weights if "float" in case.sizes else weights.to(dtype)


def combine_refusals(op: str, *first: Callable[[], torch.Tensor]) -> tuple[ErrorCase, ...]:
    """Refused calls; ``first`` makes the arguments before y, for y of 4 rows and 2 tokens."""

    def refused(
        name: str, match: str, error: type[Exception] = ValueError, **given: Any
    ) -> ErrorCase:
        arguments = {
            "y": torch.ones(4, 5),
            "row_of": torch.tensor([[0, 1], [2, -1]]),
            "weights": torch.ones(2, 2),
            **given,
        }
        return ErrorCase(
            name=name,
            call=lambda run: run(*(make() for make in first), *arguments.values()),
            error=error,
            match=f"{op}: argument {match}",
        )

    return (
        refused(
            "row beyond the last",
            r"'row_of' must be from -1 to 3, below the 4 rows of 'y', got 4 at \[1, 0\]",
            row_of=torch.tensor([[0, 1], [4, -1]]),
        ),
        refused(
            "row below -1",
            r"'row_of' must be from -1 to 3, below the 4 rows of 'y', got -2 at \[0, 1\]",
            row_of=torch.tensor([[0, -2], [3, -1]]),
        ),
        refused(
            "rows of 32 bits",
            "'row_of' must have dtype int64",
            TypeError,
            row_of=torch.zeros(2, 2, dtype=torch.int32),
        ),
        refused("other choices", "'weights' must have size 2 for K", weights=torch.ones(2, 3)),
        refused("y of three dimensions", "'y' must have 2 dimensions", y=torch.ones(1, 4, 5)),
    )


SIZES = tuple(
    {"E": experts, "top": top, "D": width, **more}
    for experts, top, width in ((1, 1, 1), (4, 2, 16), (8, 2, 65), (64, 6, 40), (16, 3, 130))
    for more in ({}, {"capacity": 2}, {"float": 1}, {"spare": 3})
)

MOE_COMBINE = OpSpec(
    name="moe_combine",
    family="moe",
    schema="(Tensor y, Tensor row_of, Tensor weights) -> Tensor",
    dims={"y": "R D", "row_of": "T K", "weights": "T K"},
    arg_dtypes={"row_of": (torch.int64,), "weights": ("y", torch.float32)},
    infer=_infer,
    reference=_reference,
    eager=_eager,
    backward="moe_combine_backward",
    backward_call=_backward,
    saved=("y", "row_of", "weights"),
    cost=_cost,
    build_inputs=lambda case, dtype, generator: (list(combine_inputs(case, dtype, generator)), {}),
    row_dims=None,
    cases=cases(sizes=SIZES, leads=[(1,), (0,), (5,), (70,)]),
    error_cases=combine_refusals("moe_combine"),
    benchmarks=tuple(
        Benchmark(
            name=f"{tokens} tokens of {width}, {top} choices",
            case=Case(sizes={"E": 8, "top": top, "D": width}, lead=(tokens,)),
            dtype=torch.bfloat16,
        )
        for tokens, top, width in ((4096, 2, 1024), (4096, 8, 512))
    ),
    doc="""
`out[t] = sum over j of weights[t, j] * y[row_of[t, j]]`; where `row_of` is -1 there is nothing, so
a token whose choices were all dropped is 0.

`y` is `[R, D]` in float32, float16 or bfloat16; `row_of` `[T, K]` int64 from -1 to below `R`
(`ValueError` otherwise), as `moe_dispatch` gives it; `weights` `[T, K]` in the dtype of `y` or in
float32. Sums are in float32, in the order of `j`, and rounded once: the same on every run, whatever
the other tokens and the number of threads.

The gradient is `moe_combine_backward`.
""",
)
