"""``kpt::moe_dispatch``: the tokens of each expert together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from kernel_pytorch.ops.routing import bounded, choices_of, dispatched, rows_of, tokens_of
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, Tolerance, cases


def _check(x: torch.Tensor, indices: torch.Tensor, num_experts: int, capacity: int) -> None:
    if num_experts < 0:
        raise ValueError(
            f"moe_dispatch: argument 'num_experts' must not be negative, got {num_experts}"
        )
    if capacity < -1:
        raise ValueError(
            "moe_dispatch: argument 'capacity' must be -1 for no limit, or how many tokens an "
            f"expert takes, got {capacity}"
        )


def _infer(
    x: torch.Tensor, indices: torch.Tensor, num_experts: int, capacity: int = -1
) -> tuple[Out, Out, Out]:
    rows = rows_of(indices.shape[0], indices.shape[1], num_experts, capacity)
    return (
        Out((rows, x.shape[1]), x.dtype),
        Out((num_experts,), torch.int32),
        Out(indices.shape, torch.int64),
    )


def _reference(
    x: torch.Tensor, indices: torch.Tensor, num_experts: int, capacity: int = -1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    indices = bounded("moe_dispatch", "indices", indices, 0, num_experts, "experts")
    order, offsets, row_of = dispatched(indices, num_experts, capacity)
    rows = rows_of(indices.shape[0], indices.shape[1], num_experts, capacity)
    permuted = x[order // max(1, indices.shape[1])]
    rest = x.new_zeros(rows - len(order), x.shape[1])
    return torch.cat([permuted, rest]), offsets, row_of


def _eager(
    x: torch.Tensor, indices: torch.Tensor, num_experts: int, *, capacity: int = -1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As models write it where nothing is dropped."""
    if capacity >= 0 or not indices.numel():
        return _reference(x, indices, num_experts, capacity)
    flat = indices.reshape(-1)
    order = flat.argsort(stable=True)
    offsets = torch.bincount(flat, minlength=num_experts).cumsum(0).to(torch.int32)
    row_of = torch.empty_like(order)
    row_of[order] = torch.arange(len(order))
    return x[order // indices.shape[1]], offsets, row_of.view(indices.shape)


def _backward(
    grads: tuple[Any, ...],
    inputs: Mapping[str, Any],
    outputs: tuple[Any, ...],
    needed: Collection[str],
) -> dict[str, Any]:
    row_of = outputs[2]
    ones = torch.ones(row_of.shape, dtype=torch.float32, device=row_of.device)
    if grads[0].dtype == torch.float64:
        ones = ones.double()
    return {"x": torch.ops.kpt.moe_combine(grads[0], row_of, ones)}


def _cost(
    x: torch.Tensor, indices: torch.Tensor, num_experts: int, *_: Any, **options: Any
) -> Cost:
    rows = rows_of(indices.shape[0], indices.shape[1], num_experts, options.get("capacity", -1))
    moved = rows * x.shape[1] * x.itemsize
    return Cost(
        read_bytes=moved + indices.nbytes,
        write_bytes=moved + 4 * num_experts + indices.nbytes,
    )


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    x = torch.randn((tokens_of(case), case.sizes["D"]), generator=generator).to(dtype)
    return [x, choices_of(case, generator), case.sizes["E"]], dict(case.options)


def _refused(name: str, match: str, error: type[Exception] = ValueError, **given: Any) -> ErrorCase:
    arguments = {
        "x": torch.ones(3, 5),
        "indices": torch.tensor([[0, 1], [2, 3], [0, 3]]),
        "num_experts": 4,
        **given,
    }
    options = {k: arguments.pop(k) for k in ("capacity",) if k in arguments}
    return ErrorCase(
        name=name,
        call=lambda op: op(*arguments.values(), **options),
        error=error,
        match=f"moe_dispatch: argument {match}",
    )


_SIZES = tuple(
    {"E": experts, "top": top, "D": width, "spread": spread}
    for experts, top, width in ((1, 1, 3), (4, 2, 16), (8, 2, 33), (64, 4, 20), (256, 1, 7))
    for spread in (0, 1, 2)
)

MOE_DISPATCH = OpSpec(
    name="moe_dispatch",
    family="moe",
    schema=(
        "(Tensor x, Tensor indices, int num_experts, *, int capacity=-1) "
        "-> (Tensor permuted, Tensor offsets, Tensor row_of)"
    ),
    dims={"x": "T D", "indices": "T K"},
    arg_dtypes={"indices": (torch.int64,)},
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_eager,
    backward="moe_combine",
    backward_call=_backward,
    saved=("row_of",),
    cost=_cost,
    build_inputs=_build,
    row_dims=None,
    tolerance=Tolerance(exact=True),
    cases=cases(sizes=_SIZES, leads=[(1,), (0,), (5,), (90,)])
    + cases(
        sizes=_SIZES[3:9],
        options=[{"capacity": 0}, {"capacity": 2}, {"capacity": 1000}],
        leads=[(5,), (40,)],
    ),
    error_cases=(
        _refused(
            "expert beyond the last",
            r"'indices' must be from 0 to 3, below the 4 experts, got 4 at \[2, 1\]",
            indices=torch.tensor([[0, 1], [2, 3], [0, 4]]),
        ),
        _refused(
            "expert below the first",
            r"'indices' must be from 0 to 3, below the 4 experts, got -1 at \[0, 0\]",
            indices=torch.tensor([[-1, 1], [2, 3], [0, 1]]),
        ),
        _refused("negative experts", "'num_experts' must not be negative, got -1", num_experts=-1),
        _refused("no experts", "'indices' must be from 0 to -1", num_experts=0),
        _refused("negative capacity", "'capacity' must be -1 for no limit", capacity=-2),
        _refused(
            "choices of 32 bits",
            "'indices' must have dtype int64",
            TypeError,
            indices=torch.zeros(3, 2, dtype=torch.int32),
        ),
        _refused(
            "other tokens", "'indices' must have size 3 for T", indices=torch.zeros(4, 2).long()
        ),
        _refused(
            "one dimension", "'indices' must have 2 dimensions", indices=torch.zeros(3).long()
        ),
        _refused("x of three dimensions", "'x' must have 2 dimensions", x=torch.ones(1, 3, 5)),
    ),
    benchmarks=tuple(
        Benchmark(
            name=f"{tokens} tokens of {width}, {top} of {experts}",
            case=Case(sizes={"E": experts, "top": top, "D": width, "spread": 1}, lead=(tokens,)),
            dtype=torch.bfloat16,
        )
        for tokens, experts, top, width in (
            (4096, 8, 2, 1024),
            (4096, 256, 8, 512),
            (1, 256, 8, 1024),
        )
    ),
    doc="""
`permuted` holds, for each expert in order, the rows of `x` that go to it, in order; `offsets[e]`
says where expert `e`'s rows end, as `grouped_gemm` takes it; `row_of[t, j]` is the row of token
`t`'s choice `j`, as `moe_combine` takes it.

Without a `capacity` every choice gets a row: there are `T * K`. With one, an expert takes that many
tokens: all first choices are served before any second one, tokens in order. Choices that find their
expert full are dropped: their `row_of` is -1, so the number dropped is `(row_of < 0).sum()`. There
are `min(T * K, num_experts * capacity)` rows then; those past the last offset are 0.

`x` is `[T, D]` in float32, float16 or bfloat16, `indices` `[T, K]` int64 from 0 to below
`num_experts` (`ValueError` otherwise), `offsets` int32, `row_of` int64. Values are copied.

The gradient of `x` is `moe_combine` with weights of 1.
""",
)
