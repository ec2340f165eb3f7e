"""Cases and refused calls of ``kv_append`` and ``kv_append_quantize``, and a case's tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kernel_pytorch.ops.attention_cache_samples import angles, random_cache, table_errors
from kernel_pytorch.ops.spec import Case, ErrorCase

__all__ = ["build", "cases", "errors", "size"]


def size(
    b: int, h: int, s: int, capacity: int, d: int, dv: int | None = None, **more: int
) -> dict[str, int]:
    """Sizes of a case; ``page``: pages of this size, ``R``: pairs that turn."""
    return {"B": b, "H": h, "S": s, "C": capacity, "D": d, "Dv": d if dv is None else dv, **more}


def build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any], tuple[int, ...]]:
    """``k``, ``v``, the caches and lengths; options but for scales; the full shape of these.

    The ``given`` entries of a case that this understands: ``cache:int8``, ``cache:fp8``,
    ``block_table``, ``cos``, ``cos:shared``, ``narrow`` (tables in the dtype of ``k``).
    """
    s = {**case.sizes, "C": max(case.sizes["C"], case.sizes["S"])}
    k = torch.randn((s["B"], s["H"], s["S"], s["D"]), generator=generator).to(dtype)
    v = torch.randn((s["B"], s["H"], s["S"], s["Dv"]), generator=generator).to(dtype)
    options: dict[str, Any] = {
        "block_table": None,
        "cos": None,
        "sin": None,
        "interleaved": False,
        **case.options,
    }
    lead = (s["B"], s["H"], s["C"])
    if "block_table" in case.given:
        each = -(-s["C"] // s["page"])
        lead = (s["B"] * each + 2, s["H"], s["page"])
        order = torch.randperm(lead[0], generator=generator)[: s["B"] * each]
        options["block_table"] = order.view(s["B"], each).to(torch.int32)
    caches = [random_cache(case, (*lead, s[d]), dtype, generator) for d in ("D", "Dv")]
    lens = torch.randint(s["S"], s["C"] + 1, (s["B"],), generator=generator)
    for text in case.given:
        if text.partition(":")[0] == "cos":
            detail = text.partition(":")[2]
            options["cos"], options["sin"] = angles(case, detail, s["S"], dtype, generator)
    return [k, v, *caches, lens], options, lead


def cases(
    of: Callable[..., tuple[Case, ...]], formats: tuple[tuple[str, ...], ...]
) -> tuple[Case, ...]:
    """The cases of both operators; ``formats``: the ``given`` entries that make their caches."""
    general = [size(3, 4, 1, 20, 32), size(2, 2, 5, 9, 40, 24), size(1, 3, 17, 30, 64)]
    paged = [
        size(3, 2, 1, 40, 32, page=16),
        size(2, 3, 9, 25, 16, 48, page=8),
        size(1, 1, 12, 12, 70, page=5),
    ]
    rotary = [
        size(2, 2, 3, 8, 32, 64, R=16),
        size(1, 3, 1, 4, 67, R=33),
        size(2, 1, 4, 9, 256, R=128),
        size(2, 4, 2, 5, 40, R=9),
    ]
    empty = [
        size(0, 2, 1, 4, 8),
        size(2, 0, 1, 4, 8),
        size(2, 2, 0, 4, 8),
        size(1, 2, 1, 3, 0, 8),
        size(1, 1, 2, 3, 257, 8),
    ]
    widths = [size(1, 2, 2, 3, d) for d in (1, 15, 16, 33, 64, 65, 127, 128, 129, 256)]
    found = of(widths, given=formats) + of(general, given=formats)
    found += of(empty, given=formats[:2])
    found += of(paged, given=tuple(("block_table", *f) for f in formats))
    for options in ({}, {"interleaved": True}):
        for tables in (("cos",), ("cos:shared", "narrow")):
            found += of(rotary, options=(options,), given=tuple((*tables, *f) for f in formats))
    return found


def errors(op: str, call: Callable[..., Any], more: dict[str, Any]) -> tuple[ErrorCase, ...]:
    """Refused calls; ``call(op, arguments)`` makes one, ``more`` are arguments that it needs."""

    def case(
        label: str, match: str, error: type[Exception] = ValueError, **changes: Any
    ) -> ErrorCase:
        def run(operator: Callable[..., Any]) -> Any:
            given: dict[str, Any] = {
                "k": torch.ones(2, 2, 1, 8),
                "v": torch.ones(2, 2, 1, 8),
                "k_cache": torch.ones(2, 2, 6, 8, dtype=torch.int8),
                "v_cache": torch.ones(2, 2, 6, 8, dtype=torch.int8),
                "seq_lens": torch.tensor([6, 3]),
                **more,
            }
            given.update({n: c() if callable(c) else c for n, c in changes.items()})
            return call(operator, given)

        return ErrorCase(name=label, call=run, error=error, match=f"{op}: argument {match}")

    def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Callable[[], torch.Tensor]:
        return lambda: torch.ones(shape, dtype=dtype)

    def table(values: Any, dtype: torch.dtype = torch.int32) -> Callable[[], torch.Tensor]:
        return lambda: torch.tensor(values, dtype=dtype)

    int8, half = torch.int8, torch.float16
    return (
        case("keys of three dimensions", "'k' must have 4 dimensions", k=ones(2, 1, 8)),
        case("values of another length", "'v' must have size 1 for S", v=ones(2, 2, 2, 8)),
        case("values of other heads", "'v' must have size 2 for H", v=ones(2, 1, 1, 8)),
        case(
            "values of another dtype",
            "'v' must have dtype",
            TypeError,
            v=lambda: ones(2, 2, 1, 8)().half(),
        ),
        case(
            "cache of another width",
            "'k_cache' must have size 8 for D",
            k_cache=ones(2, 2, 6, 9, dtype=int8),
        ),
        case(
            "cache of another size",
            "'v_cache' must have size 6 for C",
            v_cache=ones(2, 2, 7, 8, dtype=int8),
        ),
        case(
            "cache of another batch",
            "'k_cache' must have 3 entries",
            k=ones(3, 2, 1, 8),
            v=ones(3, 2, 1, 8),
            seq_lens=table([1, 2, 3], torch.int64),
        ),
        case(
            "cache in uint8",
            "'k_cache' must have dtype",
            TypeError,
            k_cache=ones(2, 2, 6, 8, dtype=torch.uint8),
        ),
        case(
            "cache in half",
            "'k_cache' must have dtype",
            TypeError,
            k_cache=ones(2, 2, 6, 8, dtype=half),
        ),
        case(
            "caches of two dtypes",
            "'v_cache' must have dtype torch.int8",
            TypeError,
            v_cache=lambda: ones(2, 2, 6, 8)().to(torch.float8_e4m3fn),
        ),
        case("integers", "'k' must have dtype", TypeError, k=ones(2, 2, 1, 8, dtype=torch.int32)),
        case(
            "length beyond the cache",
            "'seq_lens' must be from 1 to the cache's 6",
            seq_lens=table([3, 7], torch.int64),
        ),
        case(
            "length of nothing",
            "'seq_lens' must be from 1 to the cache's 6",
            seq_lens=table([0, 3], torch.int64),
        ),
        case("negative length", "'seq_lens' must be from 1", seq_lens=table([3, -1], torch.int64)),
        case("huge length", "'seq_lens' must be from 1", seq_lens=table([2**62, 3], torch.int64)),
        case("lengths as floats", "'seq_lens' must have dtype", TypeError, seq_lens=ones(2)),
        case(
            "a length too many",
            "'seq_lens' must have size 2",
            seq_lens=table([1, 2, 3], torch.int64),
        ),
        case(
            "page beyond the pool",
            "'block_table' must name pages from 0 to 1",
            block_table=table([[0], [2]]),
        ),
        case(
            "negative page",
            "'block_table' must name pages from 0 to 1",
            block_table=table([[-1], [1]]),
        ),
        case(
            "one page twice",
            "'block_table' must name each page once",
            block_table=table([[1], [1]]),
        ),
        case(
            "length beyond the table",
            "'seq_lens' must be from 1 to the cache's 0",
            block_table=lambda: torch.empty(2, 0, dtype=torch.int32),
        ),
        case(
            "table in int64",
            "'block_table' must have dtype int32",
            TypeError,
            block_table=table([[0], [1]], torch.int64),
        ),
        case("table of another batch", "'block_table' must be", block_table=table([[0]])),
        case("table of one dimension", "'block_table' must be", block_table=table([0, 1])),
        *table_errors(case, ones),
    )
