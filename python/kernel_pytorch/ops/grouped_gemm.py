"""``kpt::grouped_gemm``: one weight for each group of consecutive rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.groups import (
    LAYOUTS,
    SIZES,
    check_slots,
    error_cases,
    filled,
    groups,
    inputs,
    product_cost,
)
from kernel_pytorch.ops.spec import Benchmark, Case, OpSpec, Out, cases


def _check(x: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor, layout: str) -> None:
    check_slots("grouped_gemm", x, weight, layout)


def _infer(x: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor, layout: str) -> Out:
    return Out((x.shape[0], weight.shape[1]), x.dtype)


def _loop(
    x: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor, layout: str = "contiguous"
) -> torch.Tensor:
    """A linear layer per group; zeros for the rows that are left."""
    spans = groups("grouped_gemm", offsets, len(x), layout)
    return filled([(a, F.linear(x[a:b], weight[g])) for g, a, b in spans], x, weight.shape[1])


def _reference(
    x: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor, layout: str = "contiguous"
) -> torch.Tensor:
    return _loop(wide(x), wide(weight), offsets, layout).to(x.dtype)


def _grouped_mm(x: torch.Tensor, weight_t: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return torch._grouped_mm(x, weight_t, offsets)


def _backward(
    grads: tuple[Any, ...],
    inputs: Mapping[str, Any],
    outputs: tuple[Any, ...],
    needed: Collection[str],
) -> dict[str, Any]:
    wanted = ("x", "weight")
    found = torch.ops.kpt.grouped_gemm_backward(
        grads[0],
        inputs["x"],
        inputs["weight"],
        inputs["offsets"],
        *(name in needed for name in wanted),
        layout=inputs["layout"],
    )
    return {name: g for name, g in zip(wanted, found) if name in needed}


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    return inputs(case, dtype, generator), {"layout": case.options.get("layout", "contiguous")}


def _rows(name: str, rows: int, sizes: dict[str, int], dtype: torch.dtype) -> list[Benchmark]:
    case = Case(sizes=sizes, lead=(rows,))
    name = f"{name} {rows} tokens, {sizes['E']} groups of {sizes['N']}x{sizes['K']}"
    found = [Benchmark(name=f"{name} against F.linear", case=case, dtype=dtype)]
    if dtype == torch.bfloat16:
        found.append(
            Benchmark(
                name=f"{name} against _grouped_mm",
                case=case,
                dtype=dtype,
                eager=_grouped_mm,
                eager_inputs=lambda x, weight, offsets: (x, weight.transpose(1, 2), offsets),
            )
        )
    return found


GROUPED_GEMM = OpSpec(
    name="grouped_gemm",
    family="gemm",
    schema='(Tensor x, Tensor weight, Tensor offsets, *, str layout="contiguous") -> Tensor',
    dims={"x": "T K", "weight": "E N K", "offsets": "E"},
    arg_dtypes={"offsets": (torch.int32,)},
    choices={"layout": LAYOUTS},
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_loop,
    backward="grouped_gemm_backward",
    backward_call=_backward,
    saved=("x", "weight", "offsets"),
    autocast=True,
    cost=product_cost,
    build_inputs=_build,
    free_sizes=("E", "N", "K"),
    cases=cases(sizes=SIZES, leads=[(1,), (3,), (0,), (17,), (2, 40), (211,), (700,)])
    + cases(sizes=SIZES, options=[{"layout": "masked"}], leads=[(0,), (17,), (211,)]),
    error_cases=error_cases("grouped_gemm"),
    benchmarks=tuple(
        row
        for dtype in (torch.bfloat16, torch.float32)
        for name, rows, d, f, spread in (
            ("even", 4096, 512, 2048, 1),
            ("even", 4096, 1024, 4096, 1),
            ("uneven", 4096, 1024, 4096, 2),
            ("decode", 8, 1024, 4096, 1),
            ("decode", 32, 1024, 4096, 2),
        )
        for row in _rows(name, rows, {"E": 8, "N": f, "K": d, "spread": spread}, dtype)
    ),
    doc="""
`out[r] = x[r] @ weight[g].T` for the rows `r` of group `g`: those from `offsets[g - 1]` (0 for the
first) up to `offsets[g]`. Rows past the last offset are 0. The layers of a mixture of experts, over
tokens sorted by expert.

With `layout="masked"` every group has a slot of `C = T / E` rows, of which it uses the first
`offsets[g]`, from 0 to `C`: rows `g * C` up to `g * C + offsets[g]`; the others come out as 0,
whatever they hold. That is how experts of a fixed capacity lie (`x` is `[E, C, K]` seen as
`[E * C, K]`).

`x` is `[T, K]` in float32, float16 or bfloat16; `weight` `[E, N, K]` in the same dtype, that of a
group as in `nn.Linear`; `offsets` `[E]` int32, not decreasing, from 0 to at most `T`, read on the
host when the operator runs (`ValueError` if they do not fit). A group may be empty; any size may
be 0.

Each group is computed by the kernel that `linear_act` runs for as many rows: a row's bits are those
of `linear_act(x[a:b], weight[g])`, whatever the other groups and the number of threads. The work of
all groups is shared among the threads evenly, so groups of any sizes keep them busy.

The gradient is `grouped_gemm_backward`.
""",
)
