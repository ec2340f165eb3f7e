"""Cases and refused calls of attention_forward, and the tensors of a case.

The ``given`` entries of a case that :func:`build` understands:

- ``mask:KIND[DIMS]``, DIMS symbolic sizes or 1, KIND one of ``bool`` (two thirds visible, and in a
  full mask some queries with nothing to see), ``padding`` (bool; the visible keys of each entry are
  a range), ``float`` (in the dtype of q, some -inf), ``float32``, ``lowest`` (0 or the lowest
  finite number of q's dtype, as model code writes masks)
- ``alibi_slopes`` or ``alibi_slopes:[DIMS]``, ``sinks``
- ``q_doc``, ``k_doc`` (int64), ``q_doc:int32``, ``k_doc:int32``
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from kernel_pytorch.ops.spec import Case, ErrorCase, cases

__all__ = ["CASES", "CROSSED", "ERRORS", "adapted", "build", "size"]


def build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of ``attention_forward`` for ``case``."""
    sizes = case.sizes

    def normal(dims: str) -> torch.Tensor:
        return torch.randn(_shape(dims, case), generator=generator)

    args: list[Any] = [
        normal("B,Hq,Sq,D").to(dtype),
        normal("B,Hkv,Sk,D").to(dtype),
        normal("B,Hkv,Sk,Dv").to(dtype),
    ]
    options: dict[str, Any] = dict(case.options)
    for text in case.given:
        name, _, detail = text.partition(":")
        if name == "mask":
            options[name] = _mask(detail, case, dtype, generator)
        elif name == "alibi_slopes":
            slopes = normal(detail.strip("[]") or "Hq").abs() * 0.2
            options[name] = slopes.double() if dtype == torch.float64 else slopes
        elif name == "sinks":
            options[name] = normal("Hq").double() if dtype == torch.float64 else normal("Hq")
        else:
            assert name in ("q_doc", "k_doc"), f"unknown {text!r} in a case"
            length = sizes["Sq"] if name == "q_doc" else sizes["Sk"]
            # Documents follow each other; queries stand at the end of the keys.
            position = torch.arange(length) + (sizes["Sk"] - length)
            first = torch.arange(sizes["B"])[:, None] * 3
            ids = (position + first).clamp(min=0) // 11
            options[name] = ids.to(torch.int32 if detail == "int32" else torch.int64)
    return args, options


def _shape(dims: str, case: Case) -> list[int]:
    return [int(d) if d.isdigit() else case.sizes[d] for d in dims.split(",")]


def _mask(detail: str, case: Case, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    found = re.fullmatch(r"(\w+)\[(.+)\]", detail)
    assert found is not None, f"unknown mask {detail!r} in a case"
    kind, shape = found[1], _shape(found[2], case)
    if kind == "padding":
        length = torch.randint(1, max(2, shape[-1] + 1), shape[:-1], generator=generator)[..., None]
        # Odd entries are padded in front.
        key = torch.arange(shape[-1])
        front = torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1)) % 2 == 1
        return torch.where(front, key >= shape[-1] - length, key < length)
    visible = torch.rand(shape, generator=generator) < 0.67
    if shape[-1] > 1 and len(shape) > 1 and shape[-2] > 2:
        visible[..., 2, :] = False
    if kind == "bool":
        return visible
    wanted = torch.float32 if kind == "float32" and dtype != torch.float64 else dtype
    if kind == "lowest":
        lowest = torch.finfo(wanted).min
        return torch.zeros(shape, dtype=wanted).masked_fill(~visible, lowest)
    values = torch.randn(shape, generator=generator).to(wanted)
    return values.masked_fill(~visible, float("-inf"))


def size(
    b: int, hq: int, hkv: int, sq: int, sk: int, d: int, dv: int | None = None
) -> dict[str, int]:
    dv = d if dv is None else dv
    return {"B": b, "Hq": hq, "Hkv": hkv, "Sq": sq, "Sk": sk, "D": d, "Dv": dv}


def _cases(
    sizes: Iterable[Mapping[str, int]],
    options: Iterable[Mapping[str, Any]] = ({},),
    given: Iterable[tuple[str, ...]] = ((),),
) -> tuple[Case, ...]:
    return cases(sizes=sizes, options=options, given=given, leads=((),))


_GENERAL = (
    size(2, 4, 2, 19, 35, 32),
    size(2, 2, 2, 65, 65, 40, 24),
    size(1, 3, 1, 50, 131, 64),
    size(2, 2, 1, 35, 19, 16),
)
_POSITIONS: tuple[dict[str, Any], ...] = (
    {},
    {"is_causal": True},
    {"window_left": 7},
    {"window_left": 3, "window_right": 2},
    {"is_causal": True, "window_left": 16},
    {"is_causal": True, "prefix_len": 9},
)
_MASKS = (
    "mask:bool[B,Hq,Sq,Sk]",
    "mask:bool[B,1,1,Sk]",
    "mask:padding[B,1,1,Sk]",
    "mask:bool[1,1,Sq,Sk]",
    "mask:bool[Sq,Sk]",
    "mask:bool[B,1,Sq,1]",
    "mask:float[B,Hq,Sq,Sk]",
    "mask:float[1,Hq,Sq,Sk]",
    "mask:float[B,1,1,Sk]",
    "mask:float32[B,1,Sq,Sk]",
    "mask:lowest[B,1,1,Sk]",
    "mask:lowest[B,1,Sq,Sk]",
)
_DOCUMENTS = ("q_doc", "k_doc")


def _crossed() -> tuple[Case, ...]:
    """Every value of every option with every value of every other one: row (a, b) of 7 x 7 takes
    value a + f b of factor f, so that two factors meet in all pairs (an orthogonal array)."""
    factors: tuple[tuple[tuple[dict[str, Any], tuple[str, ...]], ...], ...] = (
        tuple((options, ()) for options in _POSITIONS),
        (({}, ()), *(({}, (_MASKS[i],)) for i in (0, 2, 3, 6, 9, 11))),
        (({}, ()), ({"softcap": 2.0}, ()), ({"softcap": 15.0}, ())),
        (({}, ()), ({}, ("alibi_slopes",)), ({}, ("alibi_slopes:[B,Hq]",))),
        (({}, ()), ({}, _DOCUMENTS), ({}, ("q_doc:int32", "k_doc:int32"))),
        (({}, ()), ({"scale": 1.0}, ()), ({"scale": -0.3}, ())),
        (({}, ()), ({}, ("sinks",))),
    )
    found: list[Case] = []
    for a in range(7):
        for b in range(7):
            chosen = [values[(a + f * b) % 7 % len(values)] for f, values in enumerate(factors)]
            options = {k: v for own, _ in chosen for k, v in own.items()}
            given = tuple(name for _, names in chosen for name in names)
            found.append(Case(sizes=_GENERAL[b % 4], options=options, given=given, lead=()))
    return tuple({str(case): case for case in found}.values())


CROSSED = _crossed()

CASES = (
    # sizes: every head dimension class, odd and empty ones
    _cases([size(2, 2, 2, 7, 9, d) for d in (1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 63, 65, 80, 96)])
    + _cases([size(1, 2, 1, 33, 70, d) for d in (100, 127, 128, 129, 192, 255, 256)])
    + _cases(
        [
            size(1, 2, 2, 20, 40, 64, 128),
            size(1, 2, 1, 20, 40, 192, 128),
            size(2, 1, 1, 5, 6, 7, 1),
            size(1, 2, 2, 9, 33, 256, 3),
            size(1, 1, 1, 9, 33, 3, 256),
        ],
        options=[{}, {"is_causal": True}],
    )
    + _cases(
        [size(2, 2, 2, s, s, 32) for s in (1, 2, 11, 12, 13, 47, 48, 49, 64, 97, 128)]
        + [size(1, 2, 2, 300, 300, 64), size(1, 1, 1, 130, 600, 128)]
        + [size(2, 4, 1, 1, 77, 64), size(1, 8, 8, 3, 257, 32), size(1, 1, 1, 100, 1, 8)],
        options=[{}, {"is_causal": True}],
    )
    + _cases(
        [
            size(0, 2, 2, 3, 4, 8),
            size(2, 0, 0, 3, 4, 8),
            size(2, 2, 2, 0, 4, 8),
            size(2, 2, 2, 3, 0, 8),
            size(2, 2, 2, 3, 4, 0, 8),
            size(2, 2, 2, 3, 4, 8, 0),
        ],
        options=[{}, {"is_causal": True}],
    )
    # beyond the kernels' head dimension: the reference
    + _cases([size(1, 2, 1, 3, 5, 257), size(1, 1, 1, 3, 5, 16, 300)])
    # options
    + _cases(_GENERAL, options=_POSITIONS, given=[(), ("sinks",)])
    + _cases(_GENERAL, options=[{}, {"is_causal": True}], given=[(m,) for m in _MASKS])
    + _cases(
        _GENERAL[:3],
        options=[{"softcap": 2.0}, {"softcap": 15.0, "is_causal": True}, {"softcap": 1.5}],
        given=[(), ("mask:float[B,Hq,Sq,Sk]",), ("sinks",)],
    )
    + _cases(
        _GENERAL[:3],
        options=[{"scale": s} for s in (1.0, 0.0, -0.3, 2.5)],
        given=[(), ("mask:bool[B,Hq,Sq,Sk]",)],
    )
    + _cases(
        _GENERAL,
        options=[{}, {"is_causal": True}],
        given=[
            ("alibi_slopes",),
            ("alibi_slopes:[B,Hq]",),
            _DOCUMENTS,
            ("q_doc:int32", "k_doc:int32"),
            ("alibi_slopes", *_DOCUMENTS),
        ],
    )
    + _cases(
        _GENERAL[:3],
        options=[{"is_causal": True, "window_left": 20, "softcap": 8.0, "prefix_len": 4}],
        given=[
            ("mask:float[B,Hq,Sq,Sk]", "alibi_slopes", "sinks", *_DOCUMENTS),
            ("mask:padding[B,1,1,Sk]", "sinks"),
            ("mask:padding[B,1,1,Sk]", "alibi_slopes", "sinks", *_DOCUMENTS),
        ],
    )
    + _cases(
        _GENERAL[:3], options=[{"window_left": 2**62, "window_right": 2**62, "prefix_len": 2**62}]
    )
)
CASES = (*CASES, *(c for c in CROSSED if str(c) not in set(map(str, CASES))))


def _call(
    shapes: tuple[tuple[int, ...], ...] = ((1, 4, 3, 8), (1, 2, 5, 8), (1, 2, 5, 8)),
    dtypes: tuple[torch.dtype, ...] = (torch.float32,) * 3,
    make: Callable[[], Mapping[str, Any]] = dict,
) -> Callable[[Callable[..., Any]], Any]:
    def call(op: Callable[..., Any]) -> Any:
        q, k, v = (torch.ones(s, dtype=d) for s, d in zip(shapes, dtypes))
        return op(q, k, v, **make())

    return call


def _error(
    name: str, match: str, call: Callable[[Callable[..., Any]], Any], error: type[Exception]
) -> ErrorCase:
    return ErrorCase(
        name=name, call=call, error=error, match=f"attention_forward: argument {match}"
    )


_BF16 = torch.bfloat16
_Q, _K = (1, 4, 3, 8), (1, 2, 5, 8)

ERRORS = (
    tuple(
        _error(name, match, _call(shapes), ValueError)
        for name, match, shapes in (
            ("q of three dimensions", "'q' must have 4 dimensions", (_Q[1:], _K, _K)),
            ("k of three dimensions", "'k' must have 4 dimensions", (_Q, _K[1:], _K)),
            ("v of five dimensions", "'v' must have 4 dimensions", (_Q, _K, (1, *_K))),
            ("other batch", "'k' must have size 1 for B", (_Q, (2, 2, 5, 8), (2, 2, 5, 8))),
            ("other head dim", "'k' must have size 8 for D", (_Q, (1, 2, 5, 16), _K)),
            ("other number of values", "'v' must have size 5 for Sk", (_Q, _K, (1, 2, 6, 8))),
            ("other heads of v", "'v' must have size 2 for Hkv", (_Q, _K, (1, 4, 5, 8))),
            (
                "heads not a multiple",
                "'q' must have a multiple of k's 3",
                (_Q, *[(1, 3, 5, 8)] * 2),
            ),
            ("no key heads", "'q' must have a multiple of k's 0", (_Q, *[(1, 0, 5, 8)] * 2)),
        )
    )
    + tuple(
        _error(name, match, _call(make=make), error)
        for name, match, make, error in (
            ("scale NaN", "'scale' must be finite", lambda: {"scale": math.nan}, ValueError),
            ("scale infinite", "'scale' must be finite", lambda: {"scale": -math.inf}, ValueError),
            ("softcap negative", "'softcap' must be", lambda: {"softcap": -1.0}, ValueError),
            ("softcap NaN", "'softcap' must be", lambda: {"softcap": math.nan}, ValueError),
            ("softcap infinite", "'softcap' must be", lambda: {"softcap": math.inf}, ValueError),
            ("window_left", "'window_left' must be -1", lambda: {"window_left": -2}, ValueError),
            ("window_right", "'window_right' must be -1", lambda: {"window_right": -9}, ValueError),
            ("prefix_len", "'prefix_len' must not", lambda: {"prefix_len": -1}, ValueError),
            (
                "mask of another length",
                r"'mask' must broadcast to \[1, 4, 3, 5\]",
                lambda: {"mask": torch.ones(1, 1, 3, 6)},
                ValueError,
            ),
            (
                "mask of five dimensions",
                "'mask' must broadcast",
                lambda: {"mask": torch.ones(1, 1, 1, 3, 5)},
                ValueError,
            ),
            (
                "mask of integers",
                "'mask' must have dtype bool or float32",
                lambda: {"mask": torch.ones(3, 5, dtype=torch.int64)},
                TypeError,
            ),
            (
                "mask in another half type",
                "'mask' must have dtype",
                lambda: {"mask": torch.ones(3, 5, dtype=torch.float16)},
                TypeError,
            ),
            (
                "alibi_slopes per kv head",
                r"'alibi_slopes' must have shape \[4\] or \[1, 4\]",
                lambda: {"alibi_slopes": torch.ones(2)},
                ValueError,
            ),
            (
                "alibi_slopes in bfloat16",
                "'alibi_slopes' must have dtype float32",
                lambda: {"alibi_slopes": torch.ones(4, dtype=_BF16)},
                TypeError,
            ),
            (
                "sinks of another length",
                "'sinks' must have size 4 for Hq",
                lambda: {"sinks": torch.ones(2)},
                ValueError,
            ),
            (
                "sinks in half",
                "'sinks' must have dtype float32",
                lambda: {"sinks": torch.ones(4, dtype=torch.float16)},
                TypeError,
            ),
            (
                "q_doc alone",
                "'k_doc' must be given together",
                lambda: {"q_doc": torch.zeros(1, 3, dtype=torch.int64)},
                ValueError,
            ),
            (
                "k_doc alone",
                "'q_doc' must be given together",
                lambda: {"k_doc": torch.zeros(1, 5, dtype=torch.int32)},
                ValueError,
            ),
            (
                "documents of two types",
                "'k_doc' must have dtype",
                lambda: {
                    "q_doc": torch.zeros(1, 3, dtype=torch.int64),
                    "k_doc": torch.zeros(1, 5, dtype=torch.int32),
                },
                TypeError,
            ),
            (
                "documents of another length",
                "'k_doc' must have size 5 for Sk",
                lambda: {
                    "q_doc": torch.zeros(1, 3, dtype=torch.int64),
                    "k_doc": torch.zeros(1, 3, dtype=torch.int64),
                },
                ValueError,
            ),
            (
                "documents as floats",
                "'q_doc' must have dtype int32 or int64",
                lambda: {"q_doc": torch.zeros(1, 3), "k_doc": torch.zeros(1, 5)},
                TypeError,
            ),
        )
    )
    + (
        _error(
            "k of another dtype",
            "'k' must have dtype bfloat16, got float32",
            _call(dtypes=(_BF16, torch.float32, _BF16)),
            TypeError,
        ),
        _error("integers", "'q' must have dtype", _call(dtypes=(torch.int32,) * 3), TypeError),
    )
)


def adapted(
    name: str, adapt: Callable[[Callable[..., Any]], Callable[..., Any]], *but: str
) -> tuple[ErrorCase, ...]:
    """The refused calls of attention_forward as those of operator ``name``: ``adapt(op)`` takes
    attention_forward's arguments. Those named in ``but`` are left out."""

    def refused(error: ErrorCase) -> ErrorCase:
        return ErrorCase(
            name=error.name,
            call=lambda op: error.call(adapt(op)),
            error=error.error,
            match=error.match.replace("attention_forward", name),
        )

    return tuple(refused(error) for error in ERRORS if error.name not in but)
