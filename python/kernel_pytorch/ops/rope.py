"""``kpt::rope``: rotary position embedding of queries and keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.rotary import check_tables, tables, turn
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, ErrorCase, OpSpec, Out, cases


def _check(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    interleaved: bool,
    inverse: bool,
) -> None:
    check_tables("rope", "q", q, cos, interleaved)


def _infer(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    interleaved: bool,
    inverse: bool,
) -> tuple[Out, Out]:
    # In the memory order of the inputs, as elementwise operators do.
    return Out(q.shape, q.dtype, like=q), Out(k.shape, k.dtype, like=k)


def _tables(
    q: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool, inverse: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    cos, sin = tables(q, cos, sin, interleaved)
    return cos, -sin if inverse else sin


def _eager(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    interleaved: bool = False,
    inverse: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    c, s = (t.to(q.dtype) for t in _tables(q, cos, sin, interleaved, inverse))
    return turn(q, c, s, interleaved), turn(k, c, s, interleaved)


def _reference(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    interleaved: bool = False,
    inverse: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    c, s = _tables(q, wide(cos), wide(sin), interleaved, inverse)
    return tuple(turn(wide(x), c, s, interleaved).to(x.dtype) for x in (q, k))


def _rotate_half(
    q: torch.Tensor,
    k: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    interleaved: bool = False,
    inverse: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The formula of Hugging Face's models, with tables as wide as the heads."""

    def turn(x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-b, a), dim=-1) * sin

    return turn(q), turn(k)


def _whole_tables(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, **_: Any
) -> tuple[torch.Tensor, ...]:
    return q, k, *(torch.cat((t, t), dim=-1).to(q.dtype) for t in (cos, sin))


def _backward(
    grads: tuple[Any, ...],
    inputs: Mapping[str, Any],
    outputs: tuple[Any, ...],
    needed: Collection[str],
) -> dict[str, Any]:
    grad_q, grad_k = torch.ops.kpt.rope(
        *grads,
        inputs["cos"],
        inputs["sin"],
        interleaved=inputs["interleaved"],
        inverse=not inputs["inverse"],
    )
    return {"q": grad_q, "k": grad_k}


def _cost(q: torch.Tensor, k: torch.Tensor, *args: Any, **kwargs: Any) -> Cost:
    return Cost(read_bytes=q.nbytes + k.nbytes, write_bytes=q.nbytes + k.nbytes)


_TABLE = {1: "[S, W]", 2: "[1, S, W]", 3: "[B, S, W]"}
"""Values of the size ``T`` of a case: the shape of its tables."""


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    """Queries and keys with the tables of random angles."""
    z = case.sizes
    q = torch.randn((z["B"], z["H"], z["S"], z["D"]), generator=generator)
    k = torch.randn((z["B"], z["K"], z["S"], z["D"]), generator=generator)
    lead = {1: (), 2: (1,), 3: (z["B"],)}[z["T"]]
    angles = 100 * torch.randn((*lead, z["S"], z["W"]), generator=generator)
    if 2 * z["W"] > z["D"]:
        angles = torch.cat((angles[..., : z["W"] // 2],) * 2, dim=-1)
    table_dtype = dtype if z.get("narrow") else torch.promote_types(dtype, torch.float32)
    tables = [angles.cos().to(table_dtype), angles.sin().to(table_dtype)]
    options = {"interleaved": False, "inverse": False, **case.options}
    return [q.to(dtype), k.to(dtype), *tables], options


def _sizes(b: int, h: int, k: int, s: int, d: int, w: int, t: int = 1, **more: int) -> Any:
    return {"B": b, "H": h, "K": k, "S": s, "D": d, "W": w, "T": t, **more}


_HALVES = [
    _sizes(1, 4, 2, 5, 64, 32),
    _sizes(2, 3, 1, 7, 64, 32, 2),
    _sizes(2, 4, 4, 33, 32, 16, 3),
    _sizes(1, 2, 2, 3, 128, 64, narrow=1),
    _sizes(2, 2, 1, 70, 16, 8, 3, narrow=1),
    _sizes(1, 1, 1, 1, 2, 1),
    _sizes(3, 2, 5, 9, 10, 5, 2),
    _sizes(1, 3, 2, 4, 80, 16),
    _sizes(2, 2, 2, 6, 67, 33, 3),
    _sizes(1, 2, 1, 5, 33, 7),
    _sizes(2, 8, 2, 40, 96, 24),
    _sizes(1, 1, 2, 2, 4200, 2099),
    _sizes(1, 2, 2, 4, 256, 128, 2),
    _sizes(2, 2, 1, 3, 8, 0),
    _sizes(0, 2, 2, 3, 8, 4),
    _sizes(2, 2, 0, 3, 8, 4, 3),
    _sizes(2, 0, 2, 3, 8, 4),
    _sizes(2, 2, 2, 0, 8, 4),
]
_WHOLE = [_sizes(2, 4, 2, 9, 64, 64, t) for t in _TABLE] + [
    _sizes(1, 2, 1, 5, 48, 32, narrow=1),
    _sizes(1, 2, 2, 33, 24, 24, 3),
]


def _refused(name: str, match: str, error: type[Exception] = ValueError, **changes: Any) -> Any:
    def call(op: Any) -> Any:
        arguments: dict[str, Any] = {
            "q": torch.ones(2, 4, 3, 8),
            "k": torch.ones(2, 2, 3, 8),
            "cos": torch.ones(3, 4),
            "sin": torch.ones(3, 4),
            **changes,
        }
        return op(**arguments)

    return ErrorCase(name=name, call=call, error=error, match=f"rope: argument {match}")


ROPE = OpSpec(
    name="rope",
    family="activation",
    schema=(
        "(Tensor q, Tensor k, Tensor cos, Tensor sin, *, bool interleaved=False, "
        "bool inverse=False) -> (Tensor out_q, Tensor out_k)"
    ),
    dims={"q": "B Hq S D", "k": "B Hk S D", "cos": "...C W", "sin": "...C W"},
    arg_dtypes={"cos": ("q", torch.float32), "sin": ("cos",)},
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_eager,
    backward="rope",
    backward_call=_backward,
    backward_of=("q", "k"),
    saved=("cos", "sin"),
    in_place=("q", "k"),
    build_inputs=_build,
    row_dims=3,
    native_backends=("cpu", "nvidia"),
    cost=_cost,
    cases=(
        cases(
            sizes=_HALVES,
            options=[
                {},
                {"interleaved": True},
                {"inverse": True},
                {"interleaved": True, "inverse": True},
            ],
            leads=[()],
        )
        + cases(sizes=_WHOLE, options=[{}, {"inverse": True}], leads=[()])
    ),
    error_cases=(
        _refused("three dimensions", "'q' must have 4 dimensions", q=torch.ones(4, 3, 8)),
        _refused("another batch", "'k' must have size 2 for B", k=torch.ones(1, 2, 3, 8)),
        _refused("another length", "'k' must have size 3 for S", k=torch.ones(2, 2, 4, 8)),
        _refused("another head_dim", "'k' must have size 8 for D", k=torch.ones(2, 2, 3, 6)),
        _refused("mixed dtypes", "'k' must have dtype", TypeError, k=torch.ones(2, 2, 3, 8).half()),
        _refused(
            "table of another length",
            r"'cos' must be \[seqlen, pairs\]",
            cos=torch.ones(4, 4),
            sin=torch.ones(4, 4),
        ),
        _refused(
            "table of another batch",
            r"'cos' must be \[seqlen, pairs\] or \[batch",
            cos=torch.ones(3, 3, 4),
            sin=torch.ones(3, 3, 4),
        ),
        _refused(
            "table of four dimensions",
            r"'cos' must be \[seqlen, pairs\] or \[batch",
            cos=torch.ones(2, 1, 3, 4),
            sin=torch.ones(2, 1, 3, 4),
        ),
        _refused(
            "table too wide",
            "'cos' must have at most head_dim / 2 = 4 columns, or an even",
            cos=torch.ones(3, 10),
            sin=torch.ones(3, 10),
        ),
        _refused(
            "odd table of both halves",
            "'cos' must have at most head_dim / 2 = 4 columns, or an even",
            cos=torch.ones(3, 7),
            sin=torch.ones(3, 7),
        ),
        _refused(
            "interleaved with a table of both halves",
            "'cos' must have at most head_dim / 2 = 4 columns, got 8",
            cos=torch.ones(3, 8),
            sin=torch.ones(3, 8),
            interleaved=True,
        ),
        _refused("tables that differ", "'sin' must have size 4 for W", sin=torch.ones(3, 3)),
        _refused(
            "tables of two dtypes",
            "'sin' must have dtype",
            TypeError,
            q=torch.ones(2, 4, 3, 8).half(),
            k=torch.ones(2, 2, 3, 8).half(),
            sin=torch.ones(3, 4).half(),
        ),
    ),
    benchmarks=tuple(
        Benchmark(
            name=name,
            case=Case(sizes=sizes, options=options, lead=()),
            dtype=dtype,
            hot=hot,
            eager=None if options else _rotate_half,
            eager_inputs=None if options else _whole_tables,
        )
        for dtype in (torch.bfloat16, torch.float32)
        for name, sizes, options, hot in (
            ("B1 H32/8 S1 D128", _sizes(1, 32, 8, 1, 128, 64), {}, True),
            ("B1 H32/8 S128 D128", _sizes(1, 32, 8, 128, 128, 64), {}, True),
            (
                "B1 H32/8 S128 D128 interleaved",
                _sizes(1, 32, 8, 128, 128, 64),
                {"interleaved": True},
                True,
            ),
            ("B1 H32/8 S2048 D128", _sizes(1, 32, 8, 2048, 128, 64), {}, False),
        )
    )
    + tuple(
        Benchmark(
            name="B1 H32/8 S2048 D128 forward+backward",
            case=Case(sizes=_sizes(1, 32, 8, 2048, 128, 64), lead=()),
            dtype=dtype,
            backward_cost=_cost,
            eager=_rotate_half,
            eager_inputs=_whole_tables,
        )
        for dtype in (torch.bfloat16, torch.float32)
    ),
    doc="""
Rotary position embedding (Su et al. 2021): pairs `(a, b)` of each row of `q` and `k` turn by the
angle of their position, to `(a * cos - b * sin, b * cos + a * sin)`.

`q` is `[batch, heads_q, seqlen, head_dim]` and `k` `[batch, heads_k, seqlen, head_dim]`, any
strides with a dense last dimension; the results keep their memory order. `cos` and `sin` are
`[seqlen, R]`, or `[batch, seqlen, R]` (a batch of 1 serves all), with `2 R <= head_dim`, of `q`'s
dtype or float32. They hold the angles of the positions at hand: for decoding, the rows of these
positions.

- By default ("neox", as in Llama and GPT-NeoX) a pair is `(x[i], x[i + R])`. With
  `interleaved=True` (as in GPT-J) it is `(x[2 i], x[2 i + 1])`.
- Elements from `2 R` on pass through (partial rotation).
- Tables as Hugging Face's models make them, `[..., 2 R]` with the second half repeating the first,
  are taken where they cannot mean anything else: unless `interleaved`, when they are wider than
  `head_dim / 2`. The second half is not read.
- `inverse=True` turns back, by minus the angles: that is also the gradient with respect to `q` and
  `k`. Gradients of `cos` and `sin` come from the reference.

Computed in float32 and rounded once. `rope_`, with the same arguments, writes over `q` and `k` and
returns nothing; they may be views of one tensor, as after a joint projection.
""",
)
