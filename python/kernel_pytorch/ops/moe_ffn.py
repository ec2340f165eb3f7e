"""``kpt::moe_ffn``: the feed-forward experts of a mixture, each over the tokens that chose it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.linears import ACTIVATIONS, GATE_KINDS, linear
from kernel_pytorch.ops.routing import bounded, choices_of, tokens_of
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, cases

_BYTES = (torch.int8, torch.float8_e4m3fn, torch.float8_e5m2)
_LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}


def _check_scale(name: str, scale: torch.Tensor | None, weight: torch.Tensor, of: str) -> None:
    lead = f"moe_ffn: argument '{name}' must be"
    stored = str(weight.dtype).removeprefix("torch.")
    if weight.dtype not in _BYTES:
        if scale is not None:
            raise ValueError(f"{lead} None for '{of}' in {stored}")
        return
    if scale is None:
        raise ValueError(f"{lead} given for '{of}' in {stored}")
    experts, rows = weight.shape[:2]
    if tuple(scale.shape) not in ((experts,), (experts, rows)):
        raise ValueError(
            f"{lead} of shape [{experts}] or [{experts}, {rows}], got {list(scale.shape)}"
        )


def _check(
    x: torch.Tensor,
    w_in: torch.Tensor,
    w_out: torch.Tensor,
    weights: torch.Tensor,
    indices: torch.Tensor,
    activation: str,
    b_in: torch.Tensor | None,
    b_out: torch.Tensor | None,
    s_in: torch.Tensor | None,
    s_out: torch.Tensor | None,
) -> None:
    hidden = w_out.shape[2]
    rows = 2 * hidden if activation in GATE_KINDS else hidden
    if w_in.shape[1] != rows:
        raise ValueError(
            f"moe_ffn: argument 'w_in' must have {rows} rows an expert for 'w_out' of {hidden} "
            f"columns and activation '{activation}', got {w_in.shape[1]}"
        )
    _check_scale("s_in", s_in, w_in, "w_in")
    _check_scale("s_out", s_out, w_out, "w_out")


def _infer(x: torch.Tensor, *_: Any, **__: Any) -> Out:
    return Out(x.shape, x.dtype)


def _dense(weight: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """The weight's values, in ``dtype``."""
    if scale is None:
        return weight.to(dtype)
    return weight.to(dtype) * scale.reshape(*scale.shape, *[1] * (3 - scale.dim())).to(dtype)


def _loop(
    x: torch.Tensor,
    w_in: torch.Tensor,
    w_out: torch.Tensor,
    weights: torch.Tensor,
    indices: torch.Tensor,
    activation: str,
    b_in: torch.Tensor | None,
    b_out: torch.Tensor | None,
) -> torch.Tensor:
    """A feed-forward layer per expert that has tokens, added up."""
    out = torch.zeros_like(x)
    for e in range(len(w_in)):
        token, choice = (indices == e).nonzero(as_tuple=True)
        if not len(token):
            continue
        h = linear(x[token], w_in[e], None if b_in is None else b_in[e], activation)
        y = linear(h, w_out[e], None if b_out is None else b_out[e], "none")
        out = out.index_add(0, token, (y * weights[token, choice][:, None]).to(out.dtype))
    return out


def _reference(
    x: torch.Tensor,
    w_in: torch.Tensor,
    w_out: torch.Tensor,
    weights: torch.Tensor,
    indices: torch.Tensor,
    activation: str = "silu",
    b_in: torch.Tensor | None = None,
    b_out: torch.Tensor | None = None,
    s_in: torch.Tensor | None = None,
    s_out: torch.Tensor | None = None,
) -> torch.Tensor:
    indices = bounded("moe_ffn", "indices", indices, 0, len(w_in), "experts")
    dtype = wide(x).dtype
    found = _loop(
        wide(x),
        _dense(w_in, s_in, dtype),
        _dense(w_out, s_out, dtype),
        wide(weights),
        indices,
        activation,
        None if b_in is None else wide(b_in),
        None if b_out is None else wide(b_out),
    )
    return found.to(x.dtype)


def _eager(
    x: torch.Tensor,
    w_in: torch.Tensor,
    w_out: torch.Tensor,
    weights: torch.Tensor,
    indices: torch.Tensor,
    *,
    activation: str = "silu",
    b_in: torch.Tensor | None = None,
    b_out: torch.Tensor | None = None,
    s_in: torch.Tensor | None = None,
    s_out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loop over experts, in the dtype of x."""
    dense_in, dense_out = _dense(w_in, s_in, x.dtype), _dense(w_out, s_out, x.dtype)
    return _loop(x, dense_in, dense_out, weights.to(x.dtype), indices, activation, b_in, b_out)


def _sums(rows: torch.Tensor, expert: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The rows of each expert, added up in float32."""
    total = torch.zeros(like.shape, dtype=wide(rows).dtype, device=rows.device)
    return total.index_add(0, expert, wide(rows)).to(like.dtype)


def _backward(
    grads: tuple[Any, ...],
    inputs: Mapping[str, Any],
    outputs: tuple[Any, ...],
    needed: Collection[str],
) -> dict[str, Any]:
    """Through the operators that the layer is made of, over rows sorted by expert."""
    kpt = torch.ops.kpt
    x, weights, indices = inputs["x"], inputs["weights"], inputs["indices"]
    b_in, b_out, activation = inputs["b_in"], inputs["b_out"], inputs["activation"]
    w_in = _dense(inputs["w_in"], inputs["s_in"], x.dtype)
    w_out = _dense(inputs["w_out"], inputs["s_out"], x.dtype)
    xs, offsets, row_of = kpt.moe_dispatch(x, indices, w_in.shape[0])
    grad_rows = kpt.moe_dispatch(grads[0], indices, w_in.shape[0])[0]
    places = row_of.reshape(-1)
    expert = torch.zeros_like(places).scatter(0, places, indices.reshape(-1))
    row_weights = torch.zeros_like(weights.reshape(-1)).scatter(0, places, weights.reshape(-1))
    row_weights = row_weights.to(x.dtype)[:, None]

    t = kpt.grouped_gemm(xs, w_in, offsets)
    if b_in is not None:
        t = t + b_in[expert]
    if activation in GATE_KINDS:
        h = kpt.act_mul(t, GATE_KINDS[activation])
    else:
        h = t if activation == "none" else kpt.act(t, activation)

    found: dict[str, Any] = {}
    weighted = grad_rows * row_weights
    if "w_out" in needed:
        found["w_out"] = kpt.grouped_gemm_backward(weighted, h, w_out, offsets, False, True)[1]
    if "b_out" in needed:
        found["b_out"] = _sums(weighted, expert, b_out)
    if not {"x", "w_in", "b_in", "weights"} & set(needed):
        return found
    through = kpt.grouped_gemm_backward(grad_rows, h, w_out, offsets, True, False)[0]
    if "weights" in needed:
        products = (wide(through) * wide(h)).sum(-1)
        if b_out is not None:
            products = products + (wide(grad_rows) * wide(b_out[expert])).sum(-1)
        found["weights"] = products[places].view(weights.shape).to(weights.dtype)
    grad_h = through * row_weights
    if activation in GATE_KINDS:
        grad_t = kpt.act_mul_backward(grad_h, t, GATE_KINDS[activation])
    else:
        grad_t = grad_h if activation == "none" else kpt.act_backward(grad_h, t, activation)
    if "b_in" in needed:
        found["b_in"] = _sums(grad_t, expert, b_in)
    if {"x", "w_in"} & set(needed):
        grad_xs, grad_w_in = kpt.grouped_gemm_backward(
            grad_t, xs, w_in, offsets, "x" in needed, "w_in" in needed
        )
        if "w_in" in needed:
            found["w_in"] = grad_w_in
        if "x" in needed:
            ones = torch.ones(row_of.shape, dtype=wide(x).dtype, device=x.device)
            found["x"] = kpt.moe_combine(grad_xs, row_of, ones)
    return found


def _cost(
    x: torch.Tensor,
    w_in: torch.Tensor,
    w_out: torch.Tensor,
    weights: torch.Tensor,
    indices: torch.Tensor,
    *_: Any,
    **__: Any,
) -> Cost:
    experts = max(1, w_in.shape[0])
    each = (w_in.numel() + w_out.numel()) // experts
    used = len(indices.unique())
    stored = used * (w_in.nbytes + w_out.nbytes) // experts
    return Cost(
        flops=2.0 * indices.numel() * each,
        read_bytes=x.nbytes + stored,
        write_bytes=x.nbytes,
        compute="bf16" if x.dtype == torch.bfloat16 else "fp32",
    )


def _stored(
    weight: torch.Tensor, dtype: torch.dtype, per_row: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight in 8 bits, and its scales."""
    largest = weight.abs().amax(-1) if per_row else weight.abs().amax((-2, -1))
    scale = (largest / _LARGEST[dtype]).clamp(min=1e-6)
    scaled = weight / scale.reshape(*scale.shape, *[1] * (3 - scale.dim()))
    return (scaled.round() if dtype == torch.int8 else scaled).to(dtype), scale


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    experts, width, hidden = (case.sizes[name] for name in ("E", "D", "F"))
    options = dict(case.options)
    rows = 2 * hidden if options.get("activation") in GATE_KINDS else hidden

    def normal(*shape: int, divide: float = 1.0) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / max(1.0, divide) ** 0.5

    indices = choices_of(case, generator)
    weights = torch.rand(indices.shape, generator=generator)
    x = normal(tokens_of(case), width).to(dtype)
    w_in: Any = normal(experts, rows, width, divide=width)
    w_out: Any = normal(experts, width, hidden, divide=hidden)
    if kind := case.sizes.get("bytes", 0):
        w_in, options["s_in"] = _stored(w_in, _BYTES[kind - 1], per_row=True)
        w_out, options["s_out"] = _stored(w_out, _BYTES[kind - 1], per_row=kind == 1)
    else:
        w_in, w_out = w_in.to(dtype), w_out.to(dtype)
    if "b_in" in case.given:
        options["b_in"] = normal(experts, rows).to(dtype)
    if "b_out" in case.given:
        options["b_out"] = normal(experts, width).to(dtype)
    if "float" not in case.sizes:
        weights = weights.to(dtype)
    return [x, w_in, w_out, weights, indices], options


def _refused(name: str, match: str, error: type[Exception] = ValueError, **given: Any) -> ErrorCase:
    arguments: dict[str, Any] = {
        "x": torch.ones(3, 5),
        "w_in": torch.ones(4, 6, 5),
        "w_out": torch.ones(4, 5, 6),
        "weights": torch.ones(3, 2),
        "indices": torch.tensor([[0, 1], [2, 3], [0, 3]]),
        **given,
    }
    positional = [arguments.pop(n) for n in ("x", "w_in", "w_out", "weights", "indices")]

    def call(op: Callable[..., Any]) -> Any:
        return op(*positional, **arguments)

    return ErrorCase(name=name, call=call, error=error, match=f"moe_ffn: argument {match}")


def _rows(tokens: int, experts: int, top: int, width: int, hidden: int) -> list[Benchmark]:
    name = f"{tokens} tokens, {top} of {experts} experts {width}-{hidden}"
    sizes = {"E": experts, "top": top, "D": width, "F": hidden, "spread": 1}
    rows = [
        Benchmark(name=name, case=Case(sizes=sizes, lead=(tokens,)), dtype=dtype)
        for dtype in (torch.bfloat16, torch.float32)
    ]
    if tokens <= 32:
        rows.append(
            Benchmark(
                name=f"{name}, fp8 weights against bf16",
                case=Case(sizes={**sizes, "bytes": 2}, lead=(tokens,)),
                dtype=torch.bfloat16,
                eager=_loop,
                eager_inputs=lambda x, w_in, w_out, weights, indices, **o: (
                    x,
                    _dense(w_in, o["s_in"], x.dtype),
                    _dense(w_out, o["s_out"], x.dtype),
                    weights,
                    indices,
                    "silu",
                    None,
                    None,
                ),
            )
        )
    return rows


_SMALL = (
    {"E": 1, "top": 1, "D": 5, "F": 7},
    {"E": 4, "top": 2, "D": 33, "F": 65},
    {"E": 8, "top": 2, "D": 64, "F": 96},
)

MOE_FFN = OpSpec(
    name="moe_ffn",
    family="moe",
    schema=(
        "(Tensor x, Tensor w_in, Tensor w_out, Tensor weights, Tensor indices, *, "
        'str activation="silu", Tensor? b_in=None, Tensor? b_out=None, Tensor? s_in=None, '
        "Tensor? s_out=None) -> Tensor"
    ),
    dims={
        "x": "T D",
        "w_in": "E R D",
        "w_out": "E D F",
        "weights": "T K",
        "indices": "T K",
        "b_in": "E R",
        "b_out": "E D",
    },
    arg_dtypes={
        "w_in": ("x", *_BYTES),
        "w_out": ("w_in",),
        "weights": ("x", torch.float32),
        "indices": (torch.int64,),
        "s_in": (torch.float32,),
        "s_out": (torch.float32,),
    },
    choices={"activation": ACTIVATIONS},
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_eager,
    backward="grouped_gemm_backward",
    backward_call=_backward,
    backward_of=("x", "w_in", "w_out", "weights", "b_in", "b_out"),
    saved=("x", "w_in", "w_out", "weights", "indices", "b_in", "b_out", "s_in", "s_out"),
    autocast=True,
    cost=_cost,
    build_inputs=_build,
    row_dims=1,
    cases=cases(
        sizes=_SMALL,
        options=[{"activation": a} for a in ACTIVATIONS],
        given=[(), ("b_in", "b_out")],
        leads=[(3,)],
    )
    + cases(
        sizes=[
            {"E": 8, "top": 2, "D": 40, "F": 72, "spread": 2},
            {"E": 33, "top": 3, "D": 24, "F": 17, "float": 1},
        ],
        options=[{"activation": "swiglu"}, {"activation": "gelu"}],
        given=[("b_in",), ("b_out",)],
        leads=[(1,), (0,), (40,), (150,)],
    )
    + cases(
        sizes=[{**size, "bytes": kind} for size in _SMALL[1:] for kind in (1, 2, 3)],
        options=[{}, {"activation": "geglu"}],
        leads=[(2,), (70,)],
    )
    + cases(
        sizes=[{"E": 256, "top": 8, "D": 16, "F": 8}, {"E": 3, "top": 2, "D": 0, "F": 4}],
        leads=[(1,), (2,)],
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
        _refused(
            "rows of a gate missing",
            "'w_in' must have 12 rows an expert for 'w_out' of 6 columns and activation 'swiglu'",
            activation="swiglu",
        ),
        _refused(
            "rows of a gate too many",
            "'w_in' must have 6 rows an expert",
            w_in=torch.ones(4, 12, 5),
        ),
        _refused("unknown activation", "'activation' must be one of", activation="softplus"),
        _refused("other experts", "'w_out' must have size 4 for E", w_out=torch.ones(3, 5, 6)),
        _refused("other width", "'w_in' must have size 5 for D", w_in=torch.ones(4, 6, 7)),
        _refused("scales for float32", "'s_in' must be None for 'w_in'", s_in=torch.ones(4)),
        _refused(
            "int8 without scales",
            "'s_in' must be given for 'w_in' in int8",
            w_in=torch.ones(4, 6, 5, dtype=torch.int8),
            w_out=torch.ones(4, 5, 6, dtype=torch.int8),
        ),
        _refused(
            "scales of another shape",
            r"'s_in' must be of shape \[4\] or \[4, 6\], got \[4, 5\]",
            w_in=torch.ones(4, 6, 5, dtype=torch.int8),
            w_out=torch.ones(4, 5, 6, dtype=torch.int8),
            s_in=torch.ones(4, 5),
            s_out=torch.ones(4),
        ),
        _refused(
            "one weight in int8",
            "'w_out' must have dtype int8",
            TypeError,
            w_in=torch.ones(4, 6, 5, dtype=torch.int8),
            s_in=torch.ones(4),
        ),
    ),
    benchmarks=tuple(
        row
        for sizes in (
            (4096, 8, 2, 512, 2048),
            (4096, 8, 2, 1024, 4096),
            (32, 8, 2, 1024, 4096),
            (1, 8, 2, 1024, 4096),
            (4, 64, 2, 128, 512),
            (1, 256, 8, 512, 512),
        )
        for row in _rows(*sizes)
    ),
    doc="""
For each token `t` and choice `j` with expert `e = indices[t, j]`:
`h = act(x[t] @ w_in[e].T + b_in[e])`, rounded to the dtype of `x`, and
`out[t] = sum over j of weights[t, j] * (h @ w_out[e].T + b_out[e])`, summed in float32 in the order
of `j` and rounded once. With `swiglu` and `geglu`, `w_in[e]` has `2 F` rows, those of the gate
first.

`x` is `[T, D]` in float32, float16 or bfloat16; `w_in` `[E, F, D]` or `[E, 2 F, D]` and `w_out`
`[E, D, F]` in the dtype of `x`, or both in int8, float8_e4m3fn or float8_e5m2 with scales `s_in`
and `s_out` in float32, one an expert (`[E]`) or one for each of its rows (`[E, F]`, `[E, D]`): a
stored value stands for itself times its scale. `weights` is `[T, K]` in the dtype of `x` or
float32, `indices` `[T, K]` int64 from 0 to below `E` (`ValueError` otherwise). Biases are in the
dtype of `x`.

Every choice is computed: nothing is dropped. Experts that no token chose cost nothing, and their
gradients are 0. A token's bits depend neither on the other tokens nor on what these chose, nor on
the number of threads; they may differ between calls of different sizes, since few tokens run other
kernels than many. Stored bytes are decoded exactly where they are read; the float32 sums are
scaled.

The gradients run through `moe_dispatch`, `grouped_gemm`, the activation and `moe_combine`; weights
in 8 bits have none.
""",
)
