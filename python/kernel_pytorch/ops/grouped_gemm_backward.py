"""``kpt::grouped_gemm_backward``: the gradients of ``kpt::grouped_gemm``."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping
from typing import Any

import torch

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
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, OpSpec, Out, cases


def _check(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    want_x: bool,
    want_weight: bool,
    layout: str,
) -> None:
    check_slots("grouped_gemm_backward", x, weight, layout)


def _infer(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    want_x: bool,
    want_weight: bool,
    layout: str,
) -> tuple[Out, Out]:
    return (
        Out(x.shape if want_x else (0,), x.dtype),
        Out(weight.shape if want_weight else (0,), x.dtype),
    )


def _loop(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    want_x: bool = True,
    want_weight: bool = True,
    layout: str = "contiguous",
) -> tuple[torch.Tensor, torch.Tensor]:
    """What autograd runs for a linear layer per group."""
    spans = list(groups("grouped_gemm_backward", offsets, len(x), layout))
    grad_x = grad_weight = x.new_empty(0)
    if want_x:
        grad_x = filled([(a, grad_out[a:b] @ weight[g]) for g, a, b in spans], x, x.shape[1])
    if want_weight and spans:
        grad_weight = torch.stack([grad_out[a:b].t() @ x[a:b] for _, a, b in spans])
    elif want_weight:
        grad_weight = weight.new_zeros(weight.shape)
    return grad_x, grad_weight


def _reference(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    want_x: bool = True,
    want_weight: bool = True,
    layout: str = "contiguous",
) -> tuple[torch.Tensor, torch.Tensor]:
    grad_x, grad_weight = _loop(
        wide(grad_out), wide(x), wide(weight), offsets, want_x, want_weight, layout
    )
    return grad_x.to(x.dtype), grad_weight.to(x.dtype)


def _backward(
    grads: tuple[Any, ...],
    inputs: Mapping[str, Any],
    outputs: tuple[Any, ...],
    needed: Collection[str],
) -> dict[str, Any]:
    """The gradients are products of groups, and so are theirs."""
    layout = {"layout": inputs["layout"]}
    product = functools.partial(torch.ops.kpt.grouped_gemm, **layout)
    gradients = functools.partial(torch.ops.kpt.grouped_gemm_backward, **layout)
    grad_out, x, weight = inputs["grad_out"], inputs["x"], inputs["weight"]
    offsets = inputs["offsets"]
    of_x = grads[0] if inputs["want_x"] else torch.zeros_like(x)
    of_weight = grads[1] if inputs["want_weight"] else torch.zeros_like(weight)
    found: dict[str, Any] = {}
    if "grad_out" in needed:
        found["grad_out"] = product(of_x, weight, offsets) + product(x, of_weight, offsets)
    if "x" in needed:
        found["x"] = gradients(grad_out, x, of_weight, offsets, True, False)[0]
    if "weight" in needed:
        found["weight"] = gradients(grad_out, of_x, weight, offsets, False, True)[1]
    return found


def _cost(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    want_x: bool = True,
    want_weight: bool = True,
    layout: str = "contiguous",
) -> Cost:
    one = product_cost(x, weight, offsets, layout)
    return dataclasses.replace(
        one,
        flops=one.flops * (want_x + want_weight),
        read_bytes=one.read_bytes + grad_out.nbytes,
        write_bytes=want_x * x.nbytes + want_weight * weight.nbytes,
    )


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    x, weight, offsets = inputs(case, dtype, generator)
    grad_out = torch.randn((len(x), weight.shape[1]), generator=generator).to(dtype)
    wanted = [case.options.get(f"want_{name}", True) for name in ("x", "weight")]
    layout = case.options.get("layout", "contiguous")
    return [grad_out, x, weight, offsets, *wanted], {"layout": layout}


GROUPED_GEMM_BACKWARD = OpSpec(
    name="grouped_gemm_backward",
    family="gemm",
    schema=(
        "(Tensor grad_out, Tensor x, Tensor weight, Tensor offsets, bool want_x=True, "
        'bool want_weight=True, *, str layout="contiguous") -> (Tensor grad_x, Tensor grad_weight)'
    ),
    dims={"grad_out": "T N", "x": "T K", "weight": "E N K", "offsets": "E"},
    arg_dtypes={"offsets": (torch.int32,)},
    choices={"layout": LAYOUTS},
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_loop,
    backward="grouped_gemm",
    backward_call=_backward,
    saved=("grad_out", "x", "weight", "offsets"),
    cost=_cost,
    build_inputs=_build,
    free_sizes=("E", "N", "K"),
    row_dims=None,
    cases=cases(sizes=SIZES, leads=[(1,), (3,), (0,), (17,), (2, 40), (211,), (700,)])
    + cases(sizes=SIZES, options=[{"layout": "masked"}], leads=[(0,), (17,), (211,)])
    + cases(
        sizes=SIZES[5:6],
        options=[{"want_x": False}, {"want_weight": False}],
        leads=[(40,)],
    ),
    error_cases=error_cases("grouped_gemm_backward", lambda: torch.ones(5, 4)),
    benchmarks=tuple(
        Benchmark(
            name=f"{name} {rows} tokens, 8 groups of {f}x{d}",
            case=Case(sizes={"E": 8, "N": f, "K": d, "spread": spread}, lead=(rows,)),
            dtype=dtype,
        )
        for dtype in (torch.bfloat16, torch.float32)
        for name, rows, d, f, spread in (
            ("even", 4096, 512, 2048, 1),
            ("even", 4096, 1024, 4096, 1),
            ("uneven", 4096, 1024, 4096, 2),
        )
    ),
    doc="""
`grad_x[r] = grad_out[r] @ weight[g]` for the rows `r` of group `g` and 0 for rows of no
group; `grad_weight[g] = grad_out[a:b].T @ x[a:b]` over the rows of the group, 0 for an empty one.

Arguments are those of `grouped_gemm`; `grad_out` is `[T, N]`. A gradient that is not wanted
(`want_x`, `want_weight`) is not computed and comes back as an empty tensor `[0]`. Sums are in
float32 and rounded once; bfloat16 products are sums of pairs as in `linear_act`. A group's
gradients are those of `linear_act_backward` on the group alone, whatever the other groups and the
number of threads.
""",
)
