"""``kpt::linear_act_backward``: the gradients of ``kpt::linear_act``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from kernel_pytorch.ops.activations import EAGER, EAGER_BACKWARD, REFERENCE_BACKWARD, wide
from kernel_pytorch.ops.linear_errors import backward_errors
from kernel_pytorch.ops.linears import (
    ACTIVATIONS,
    GATE_KINDS,
    GATES,
    check_layer,
    layer_inputs,
    linear,
    output_features,
)
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, Tolerance, cases

_Backward = Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]


def _check(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str,
    want_x: bool,
    want_weight: bool,
    want_bias: bool,
    t: torch.Tensor | None,
) -> None:
    check_layer("linear_act_backward", weight, bias, activation)
    sums = [*x.shape[:-1], weight.shape[0]]
    if t is not None and list(t.shape) != sums:
        raise ValueError(
            f"linear_act_backward: argument 't' must have shape {sums} like x weight^T, got shape "
            f"{list(t.shape)}"
        )
    expected = [*x.shape[:-1], output_features(weight, activation)]
    if list(grad_out.shape) != expected:
        raise ValueError(
            f"linear_act_backward: argument 'grad_out' must have shape {expected} like the output "
            f"of linear_act, got shape {list(grad_out.shape)}"
        )


def _infer(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str,
    want_x: bool,
    want_weight: bool,
    want_bias: bool,
    t: torch.Tensor | None,
) -> tuple[Out, Out, Out]:
    return (
        Out(x.shape if want_x else (0,), x.dtype),
        Out(weight.shape if want_weight else (0,), x.dtype),
        Out(weight.shape[:1] if want_bias and bias is not None else (0,), x.dtype),
    )


def _gradients(
    backward: _Backward,
    grad_out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str,
    want_x: bool,
    want_weight: bool,
    want_bias: bool,
    t: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    grad = grad_out
    if activation != "none" and t is None:
        t = F.linear(x, weight, bias)
    if activation in GATES:
        assert t is not None
        gate, up = t.chunk(2, dim=-1)
        kind = GATE_KINDS[activation]
        grad = torch.cat([backward[kind](grad * up, gate), grad * EAGER[kind](gate)], dim=-1)
    elif activation != "none":
        assert t is not None
        grad = backward[activation](grad, t)
    rows = math.prod(x.shape[:-1])
    grad_rows = grad.reshape(rows, weight.shape[0])
    none = x.new_empty(0)
    return (
        grad @ weight if want_x else none,
        grad_rows.t() @ x.reshape(rows, weight.shape[1]) if want_weight else none,
        grad_rows.sum(0) if want_bias and bias is not None else none,
    )


def _eager(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str = "none",
    want_x: bool = True,
    want_weight: bool = True,
    want_bias: bool = True,
    *,
    t: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _gradients(
        EAGER_BACKWARD, grad_out, x, weight, bias, activation, want_x, want_weight, want_bias, t
    )


def _reference(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str = "none",
    want_x: bool = True,
    want_weight: bool = True,
    want_bias: bool = True,
    *,
    t: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    wide_bias = None if bias is None else wide(bias)
    grads = _gradients(
        REFERENCE_BACKWARD,
        wide(grad_out),
        wide(x),
        wide(weight),
        wide_bias,
        activation,
        want_x,
        want_weight,
        want_bias,
        None if t is None else wide(t),
    )
    grad_x, grad_weight, grad_bias = (g.to(x.dtype) for g in grads)
    return grad_x, grad_weight, grad_bias


class _Layer(NamedTuple):
    """The eager layer's parameters, as leaves of a graph."""

    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    activation: str

    def output(self) -> torch.Tensor:
        return linear(self.x, self.weight, self.bias, self.activation)

    def leaves(self) -> list[torch.Tensor]:
        return [t for t in (self.x, self.weight, self.bias) if t is not None]


def _layer(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str,
    *wanted: bool,
    t: torch.Tensor | None = None,
) -> tuple[_Layer, torch.Tensor]:
    with torch.inference_mode(False):
        grad = grad_out.clone()
        new_x, new_weight = (t.clone().requires_grad_() for t in (x, weight))
        new_bias = None if bias is None else bias.clone().requires_grad_()
    return _Layer(new_x, new_weight, new_bias, activation), grad


def _recorded(
    *args: Any, t: torch.Tensor | None = None
) -> tuple[list[torch.Tensor], torch.Tensor, list[torch.Tensor]]:
    layer, grad = _layer(*args)
    with torch.inference_mode(False), torch.enable_grad():
        return [layer.output()], grad, layer.leaves()


def _replay(ys: list[torch.Tensor], grad: torch.Tensor, leaves: list[torch.Tensor]) -> Any:
    """The backward pass that users run, of a graph that has kept the sums."""
    with torch.inference_mode(False):
        return torch.autograd.grad(ys, leaves, [grad], retain_graph=True)


def _train(layer: _Layer, grad: torch.Tensor) -> Any:
    """Forward and backward: what a checkpointed layer computes in the backward pass."""
    with torch.inference_mode(False), torch.enable_grad():
        return torch.autograd.grad(layer.output(), layer.leaves(), grad)


def _cost(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str = "none",
    want_x: bool = True,
    want_weight: bool = True,
    want_bias: bool = True,
    *,
    t: torch.Tensor | None = None,
) -> Cost:
    products = want_x + want_weight + (activation != "none" and t is None)
    wanted = want_x * x.nbytes + want_weight * weight.nbytes
    if want_bias and bias is not None:
        wanted += bias.nbytes
    return Cost(
        flops=2.0 * products * math.prod(x.shape[:-1]) * weight.numel(),
        read_bytes=grad_out.nbytes + x.nbytes + weight.nbytes + (0 if t is None else t.nbytes),
        write_bytes=wanted,
        compute="bf16" if x.dtype == torch.bfloat16 else "fp32",
    )


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    x, weight, bias, activation = layer_inputs(case, dtype, generator)
    features = output_features(weight, activation)
    grad_out = torch.randn((*case.lead, features), generator=generator).to(dtype)
    wanted = [case.options.get(f"want_{n}", True) for n in ("x", "weight", "bias")]
    t = F.linear(x, weight, bias) if "t" in case.given else None
    return [grad_out, x, weight, bias, activation, *wanted], {"t": t}


_ACTIVATIONS = [{"activation": a} for a in ACTIVATIONS]


def _rows(m: int, n: int, k: int, dtype: torch.dtype, activation: str) -> tuple[Benchmark, ...]:
    options = {"activation": activation}
    case = Case(sizes={"N": n, "K": k}, options=options, given=("bias",), lead=(m,))
    name = f"{n}x{k} M={m} {activation}"
    kept = Benchmark(name=name, case=case, dtype=dtype, eager=_replay, eager_inputs=_recorded)
    if activation == "none":
        return (kept,)
    return (
        dataclasses.replace(kept, case=dataclasses.replace(case, given=("bias", "t"))),
        Benchmark(
            name=f"{name} checkpointed", case=case, dtype=dtype, eager=_train, eager_inputs=_layer
        ),
    )


LINEAR_ACT_BACKWARD = OpSpec(
    name="linear_act_backward",
    family="gemm",
    schema=(
        '(Tensor grad_out, Tensor x, Tensor weight, Tensor? bias=None, str activation="none", '
        "bool want_x=True, bool want_weight=True, bool want_bias=True, *, Tensor? t=None) "
        "-> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)"
    ),
    dims={"grad_out": "... N", "x": "... K", "weight": "R K", "bias": "R", "t": "... R"},
    choices={"activation": ACTIVATIONS},
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_eager,
    # Sums of a few terms of either sign, each as far off as an activation's slope may be.
    tolerance=Tolerance(floor_ulp=2.0),
    cost=_cost,
    build_inputs=_build,
    free_sizes=("N", "K"),
    row_dims=None,
    cases=cases(
        sizes=[
            {"N": 0, "K": 5},
            {"N": 5, "K": 0},
            {"N": 1, "K": 1},
            {"N": 7, "K": 33},
            {"N": 65, "K": 31},
            {"N": 96, "K": 130},
        ],
        options=_ACTIVATIONS,
        given=[("bias",)],
        leads=[(3,), (), (0,), (2, 17)],
    )
    + cases(
        sizes=[{"N": 66, "K": 70}, {"N": 130, "K": 24}],
        options=[{"activation": a} for a in ("none", "relu", "gelu_tanh", "geglu")],
        given=[(), ("bias",)],
        leads=[(150,), (1, 1200)],
    )
    + cases(
        sizes=[{"N": 7, "K": 33}, {"N": 65, "K": 31}, {"N": 5, "K": 0}],
        options=_ACTIVATIONS,
        given=[("bias", "t")],
        leads=[(3,), (0,), (2, 17)],
    )
    + cases(
        sizes=[{"N": 20, "K": 2100}, {"N": 2100, "K": 20}],
        options=[{"activation": a} for a in ("none", "gelu", "swiglu")],
        given=[("bias",)],
        leads=[(33,)],
    )
    + cases(
        sizes=[{"N": 17, "K": 40}],
        options=[
            {"activation": a, **wanted}
            for a in ("none", "silu")
            for wanted in (
                {"want_x": False},
                {"want_weight": False},
                {"want_x": False, "want_weight": False},
                {"want_bias": False},
            )
        ],
        given=[("bias",)],
        leads=[(9,)],
    ),
    error_cases=(
        *backward_errors(),
        ErrorCase(
            name="t of half a gate",
            call=lambda op: op(
                torch.ones(2, 2),
                torch.ones(2, 3),
                torch.ones(4, 3),
                None,
                "swiglu",
                t=torch.ones(2, 2),
            ),
            error=ValueError,
            match="linear_act_backward: argument 't' must have (shape|size)",
        ),
        ErrorCase(
            name="t of another dtype",
            call=lambda op: op(
                torch.ones(2, 4),
                torch.ones(2, 3),
                torch.ones(4, 3),
                None,
                "gelu",
                t=torch.ones(2, 4).half(),
            ),
            error=TypeError,
            match="linear_act_backward: argument 't' must have dtype float32, got float16",
        ),
    ),
    benchmarks=tuple(
        row
        for dtype in (torch.bfloat16, torch.float32)
        for n, k, activation in (
            (1024, 1024, "none"),
            (4096, 1024, "gelu"),
            (384, 384, "none"),
            (1536, 384, "gelu"),
        )
        for m in (128, 4096)
        for row in _rows(m, n, k, dtype, activation)
    ),
    doc="""
With `t = x @ weight.T + bias` and `out = act(t)` or, gated, `act(t[..., :N]) * t[..., N:]`:

- `grad_t = grad_out * act'(t)`; gated, the gate's columns first:
  `[grad_out * up * act'(gate), grad_out * act(gate)]`;
- `grad_x = grad_t @ weight`, `grad_weight = grad_t.T @ x`, `grad_bias = grad_t.sum(0)`.

Arguments are those of `linear_act`; `grad_out` has the shape of its output. A gradient that is not
wanted (`want_x`, `want_weight`, `want_bias`), or that of a bias that is not given, is not computed
and comes back as an empty tensor `[0]`.

`t`, as `linear_act_forward` returned it, may be given: `[..., N]` (gated: `[..., 2 N]`), rounded to
the dtype of `x`; two products are left. Else it is computed again and not rounded: for a layer with
an activation a third product, for which only `x` is held until then. Without an activation `t` is
not read and `grad_t` is `grad_out`: no other memory.

`grad_t` is rounded to the dtype of `x`, as eager PyTorch's is; sums are in float32 and rounded
once. bfloat16 products are sums of pairs as in `linear_act`.

Results depend neither on the number of threads nor, for a row of `grad_x`, on the other rows (but
up to three rows may be summed more exactly than many).
""",
)
