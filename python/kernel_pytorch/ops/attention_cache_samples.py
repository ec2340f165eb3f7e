"""Cases and refused calls of the operators that read a key-value cache, and a case's tensors.

The ``given`` entries of a case that the builders understand: ``cache:int8`` and ``cache:fp8`` (the
dtype of the cache), ``k_scale`` and ``v_scale`` (one a token; ``k_scale:head`` one a head),
``alibi_slopes``, ``sinks``, ``lens:int32``, ``full`` (every sequence fills the cache), ``cos`` (the
tables of R pairs, a size of the case, for each entry; ``cos:shared`` for all of them).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from kernel_pytorch.ops import spec
from kernel_pytorch.ops.spec import Case, ErrorCase

__all__ = [
    "angles",
    "build_decode",
    "build_paged",
    "cases",
    "errors",
    "random_cache",
    "size",
    "table_errors",
]


def size(
    b: int, hq: int, hkv: int, sq: int, keys: int, d: int, dv: int | None = None
) -> dict[str, int]:
    return {
        "B": b, "Hq": hq, "Hkv": hkv, "Sq": sq, "C": keys, "D": d, "Dv": d if dv is None else dv
    }  # fmt: skip


def random_cache(
    case: Case, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> torch.Tensor:
    values = torch.randn(shape, generator=generator)
    if "cache:int8" in case.given:
        return (values * 30).round().clamp(-127, 127).to(torch.int8)
    if "cache:fp8" in case.given:
        return values.to(torch.float8_e4m3fn)
    return values.to(dtype)


def _options(
    case: Case, scales: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> dict[str, Any]:
    """Options; ``scales`` is the full shape of k_scale and v_scale."""
    options: dict[str, Any] = dict(case.options)
    for text in case.given:
        name, _, detail = text.partition(":")
        if name in ("k_scale", "v_scale"):
            shape = (1, scales[1], 1) if detail == "head" else scales
            largest = 0.06 if "cache:int8" in case.given else 2.0
            value = torch.rand(shape, generator=generator) * largest + largest / 4
        elif name == "alibi_slopes":
            value = torch.rand(case.sizes["Hq"], generator=generator) * 0.2
        elif name == "sinks":
            value = torch.randn(case.sizes["Hq"], generator=generator)
        elif name == "cos":
            options["cos"], options["sin"] = angles(
                case, detail, case.sizes["Sq"], dtype, generator
            )
            continue
        else:
            continue
        options[name] = value.double() if dtype == torch.float64 else value
    return options


def angles(
    case: Case, detail: str, tokens: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of random angles for ``tokens`` positions."""
    lead = () if detail == "shared" else (case.sizes["B"],)
    pairs = min(case.sizes["R"], case.sizes["D"] // 2)
    angle = 100 * torch.randn((*lead, tokens, pairs), generator=generator)
    table = dtype if "narrow" in case.given else torch.promote_types(dtype, torch.float32)
    return angle.cos().to(table), angle.sin().to(table)


def _lens(case: Case, generator: torch.Generator) -> torch.Tensor:
    batch, capacity = case.sizes["B"], case.sizes["C"]
    if "full" in case.given:
        lens = torch.full((batch,), capacity)
    else:
        lens = torch.randint(0, capacity + 1, (batch,), generator=generator)
        lens[:1] = capacity
    return lens.to(torch.int32 if "lens:int32" in case.given else torch.int64)


def build_decode(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of ``attention_decode``."""
    s = case.sizes
    q = torch.randn((s["B"], s["Hq"], s["Sq"], s["D"]), generator=generator).to(dtype)
    k = random_cache(case, (s["B"], s["Hkv"], s["C"], s["D"]), dtype, generator)
    v = random_cache(case, (s["B"], s["Hkv"], s["C"], s["Dv"]), dtype, generator)
    lens = _lens(case, generator)
    return [q, k, v, lens], _options(case, (s["B"], s["Hkv"], s["C"]), dtype, generator)


def build_paged(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of ``attention_paged``: pages of all sequences in random order, a few unused; the
    table's entries behind a sequence name no page."""
    s = case.sizes
    page = s["page"]
    pages_each = -(-s["C"] // page)
    count = s["B"] * pages_each + 2
    q = torch.randn((s["B"], s["Hq"], s["Sq"], s["D"]), generator=generator).to(dtype)
    k = random_cache(case, (count, s["Hkv"], page, s["D"]), dtype, generator)
    v = random_cache(case, (count, s["Hkv"], page, s["Dv"]), dtype, generator)
    order = torch.randperm(count, generator=generator)[: s["B"] * pages_each]
    table = order.view(s["B"], pages_each).to(torch.int32)
    lens = _lens(case, generator)
    behind = torch.arange(pages_each) * page >= lens[:, None]
    table = table.masked_fill(behind, -1)
    return [q, k, v, table, lens], _options(case, (count, s["Hkv"], page), dtype, generator)


def cases(pages: tuple[int, ...] = ()) -> tuple[Case, ...]:
    """The cases of both operators, with the sizes of pages in turn where there are some."""

    def of(
        sizes: list[dict[str, int]],
        options: tuple[Mapping[str, Any], ...] = ({},),
        given: tuple[tuple[str, ...], ...] = ((),),
    ) -> tuple[Case, ...]:
        if pages:
            sizes = [{**s, "page": pages[i % len(pages)]} for i, s in enumerate(sizes)]
        return spec.cases(sizes=sizes, options=options, given=given, leads=((),))

    general = [
        size(3, 4, 2, 1, 35, 32),
        size(2, 8, 1, 3, 70, 40, 24),
        size(2, 3, 3, 8, 131, 64),
    ]
    return (
        of([size(2, 2, 2, 1, 19, d) for d in (1, 3, 8, 15, 16, 17, 33, 64, 80, 127, 128, 129, 256)])
        + of([size(2, 4, 2, 2, 40, 64, 128), size(1, 2, 1, 1, 33, 192, 128)])
        + of([size(2, 2, 1, 1, n, 32) for n in (1, 2, 63, 64, 65, 127, 128, 129, 511, 513)])
        + of([size(1, 8, 2, 1, 1100, 64), size(1, 64, 1, 1, 200, 32), size(1, 6, 1, 7, 600, 16)])
        + of([size(2, hq, hq // g, sq, 70, 32) for hq, g, sq in (
            (2, 2, 1), (4, 4, 1), (8, 8, 1), (6, 3, 1), (5, 5, 1), (16, 16, 1), (4, 2, 4), (2, 1, 5)
        )])
        + of(
            [
                size(0, 2, 2, 1, 4, 8),
                size(2, 0, 0, 1, 4, 8),
                size(2, 2, 2, 0, 4, 8),
                size(2, 2, 2, 1, 0, 8),
                size(2, 2, 2, 1, 4, 0, 8),
                size(2, 2, 2, 1, 4, 8, 0),
                size(1, 2, 1, 1, 5, 257),
            ]
        )
        + of(
            general,
            options=(
                {"window_left": 0},
                {"window_left": 7},
                {"softcap": 2.0},
                {"scale": 0.5},
                {"scale": 0.0},
                {"scale": -0.3},
                {"window_left": 2**62},
                {"window_left": 20, "softcap": 8.0},
            ),
            given=((), ("alibi_slopes", "sinks")),
        )
        + of(general, given=(("alibi_slopes",), ("sinks",), ("lens:int32",), ("full",)))
        + of(
            general,
            options=({}, {"window_left": 9}),
            given=(
                ("cache:int8", "k_scale", "v_scale"),
                ("cache:int8", "k_scale:head", "v_scale:head"),
                ("cache:int8", "k_scale"),
                ("cache:fp8",),
                ("cache:fp8", "k_scale", "v_scale:head"),
                ("k_scale", "v_scale"),
                ("cache:int8", "k_scale", "v_scale", "alibi_slopes", "sinks"),
            ),
        )
        + of(
            [
                {**size(3, 4, 2, 1, 35, 32), "R": 16},
                {**size(2, 8, 1, 3, 70, 40, 24), "R": 7},
                {**size(2, 3, 3, 8, 131, 64), "R": 32},
                {**size(1, 2, 1, 2, 9, 67), "R": 33},
                {**size(2, 2, 2, 1, 5, 8), "R": 0},
                {**size(2, 4, 2, 1, 40, 256), "R": 128},
            ],
            options=({}, {"interleaved": True}),
            given=(("cos",), ("cos:shared", "narrow"), ("cache:int8", "k_scale", "cos")),
        )
    )  # fmt: skip


_BF16 = torch.bfloat16


def table_errors(
    case: Callable[..., ErrorCase], ones: Callable[..., Callable[[], torch.Tensor]]
) -> list[ErrorCase]:
    """Refused tables of an operator whose rows are [2, any, 1, 8] in float32."""
    half = torch.float16
    return [
        case("cosines alone", "'sin' must be given with the other one", cos=ones(1, 4)),
        case("sines alone", "'cos' must be given with the other one", sin=ones(1, 4)),
        case(
            "tables of another length",
            r"'cos' must be \[seqlen, pairs\]",
            cos=ones(2, 4),
            sin=ones(2, 4),
        ),
        case(
            "tables of another batch",
            r"'cos' must be \[seqlen, pairs\]",
            cos=ones(3, 1, 4),
            sin=ones(3, 1, 4),
        ),
        case(
            "tables too wide",
            "'cos' must have at most head_dim / 2 = 4",
            cos=ones(1, 10),
            sin=ones(1, 10),
        ),
        case("tables that differ", "'sin' must have shape", cos=ones(1, 4), sin=ones(1, 3)),
        case(
            "tables in another dtype",
            "'cos' must have dtype",
            TypeError,
            cos=ones(1, 4, dtype=half),
            sin=ones(1, 4, dtype=half),
        ),
    ]


def errors(name: str) -> tuple[ErrorCase, ...]:
    """Refused calls of the operator; those of pages for ``attention_paged`` only."""
    paged = name == "attention_paged"
    cache = "pages" if paged else "cache"
    k_name, v_name = f"k_{cache}", f"v_{cache}"

    def case(
        label: str, match: str, error: type[Exception] = ValueError, **changes: Any
    ) -> ErrorCase:
        def call(op: Callable[..., Any]) -> Any:
            given: dict[str, Any] = {
                "q": torch.ones(2, 4, 1, 8),
                "k": torch.ones(2, 2, 6, 8),
                "v": torch.ones(2, 2, 6, 8),
                "block_table": torch.tensor([[0], [1]], dtype=torch.int32),
                "seq_lens": torch.tensor([6, 3]),
            }
            for key, value in changes.items():
                given[key] = value() if callable(value) else value
            head = [given.pop(n) for n in ("q", "k", "v", "block_table", "seq_lens")]
            if not paged:
                del head[3]
            return op(*head, **given)

        return ErrorCase(name=label, call=call, error=error, match=f"{name}: argument {match}")

    def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Callable[[], torch.Tensor]:
        return lambda: torch.ones(shape, dtype=dtype)

    def numbers(values: Any, dtype: torch.dtype = torch.int64) -> Callable[[], torch.Tensor]:
        return lambda: torch.tensor(values, dtype=dtype)

    found = [
        case("q of three dimensions", "'q' must have 4 dimensions", q=ones(4, 1, 8)),
        case("keys of three dimensions", f"'{k_name}' must have 4 dimensions", k=ones(2, 6, 8)),
        case("values of five dimensions", f"'{v_name}' must have 4 dim", v=ones(1, 2, 2, 6, 8)),
        case("nine query tokens", "'q' must have at most 8 query tokens", q=ones(2, 4, 9, 8)),
        case("heads not a multiple", "'q' must have a multiple of", q=ones(2, 3, 1, 8)),
        case("other head dim", f"'{k_name}' must have size 8 for D", k=ones(2, 2, 6, 16)),
        case("other heads of values", f"'{v_name}' must have size 2 for Hkv", v=ones(2, 4, 6, 8)),
        case("other number of values", f"'{v_name}' must have size 6", v=ones(2, 2, 7, 8)),
        case("a length too many", "'seq_lens' must have size 2", seq_lens=numbers([1, 2, 3])),
        case("length beyond the cache", "'seq_lens' must be from 0", seq_lens=numbers([3, 7])),
        case("negative length", "'seq_lens' must be from 0", seq_lens=numbers([-1, 3])),
        case("huge length", "'seq_lens' must be from 0", seq_lens=numbers([2**62, 3])),
        case("lengths as floats", "'seq_lens' must have dtype", TypeError, seq_lens=ones(2)),
        case("integers", "'q' must have dtype", TypeError, q=ones(2, 4, 1, 8, dtype=torch.int32)),
        case(
            "keys of another dtype",
            f"'{k_name}' must have dtype",
            TypeError,
            k=ones(2, 2, 6, 8, dtype=_BF16),
        ),
        case(
            "values of another dtype",
            f"'{v_name}' must have dtype torch.float32 like",
            TypeError,
            v=ones(2, 2, 6, 8, dtype=torch.int8),
        ),
        case("scale NaN", "'scale' must be finite", scale=math.nan),
        case("scale infinite", "'scale' must be finite", scale=math.inf),
        case("softcap negative", "'softcap' must be", softcap=-1.0),
        case("softcap NaN", "'softcap' must be", softcap=math.nan),
        case("window_left", "'window_left' must be -1", window_left=-2),
        case("sinks of another length", "'sinks' must have size 4 for Hq", sinks=ones(2)),
        case("slopes per entry", "'alibi_slopes' must have 1 dim", alibi_slopes=ones(2, 4)),
        case("scales per batch of 3", "'k_scale' must broadcast to", k_scale=ones(3, 2, 6)),
        case("scales of four dimensions", "'v_scale' must broadcast", v_scale=ones(2, 2, 6, 1)),
        case(
            "scales in bfloat16",
            "'k_scale' must have dtype float32",
            TypeError,
            k_scale=ones(2, 2, 6, dtype=_BF16),
        ),
        *table_errors(case, ones),
    ]
    if not paged:
        found.append(case("other batch", "'k_cache' must have size 2 for B", k=ones(3, 2, 6, 8)))
    else:
        found += [
            case(
                "page beyond the pool",
                "'block_table' must name pages from 0 to 1",
                block_table=numbers([[0], [2]], torch.int32),
            ),
            case(
                "negative page",
                "'block_table' must name pages from 0 to 1",
                block_table=numbers([[-1], [1]], torch.int32),
            ),
            case(
                "table in int64",
                "'block_table' must have dtype int32",
                TypeError,
                block_table=numbers([[0], [1]]),
            ),
            case(
                "table of one dimension",
                "'block_table' must have 2 dimensions",
                block_table=numbers([0, 1], torch.int32),
            ),
        ]
    return tuple(found)
