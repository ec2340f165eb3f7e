"""``kpt::attention_paged``: new query tokens against a key-value cache in pages."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.ops import attention_cache, rotary
from kernel_pytorch.ops.attention_cache import CACHE_DTYPES
from kernel_pytorch.ops.attention_cache_samples import build_paged, cases, errors, size
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, OpSpec, Out

_NAME = "attention_paged"


def _check(
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
    scale: float | None,
    window_left: int,
    softcap: float,
    alibi_slopes: torch.Tensor | None,
    sinks: torch.Tensor | None,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    interleaved: bool,
) -> None:
    rotary.check_optional_tables(_NAME, "q", q, cos, sin, interleaved)
    attention_cache.check_options(
        _NAME,
        ("k_pages", "v_pages"),
        q,
        k_pages,
        v_pages,
        scale,
        window_left,
        softcap,
        k_scale,
        v_scale,
    )


def _used(block_table: torch.Tensor, seq_lens: torch.Tensor, page: int) -> torch.Tensor:
    """Which entries of the table a sequence reaches, ``[B, pages]``."""
    first = torch.arange(block_table.shape[1], device=block_table.device) * page
    return first < seq_lens[:, None]


def _check_pages(k_pages: torch.Tensor, block_table: torch.Tensor, seq_lens: torch.Tensor) -> None:
    attention_cache.check_lengths(_NAME, seq_lens, k_pages.shape[2] * block_table.shape[1])
    count = k_pages.shape[0]
    bad = _used(block_table, seq_lens, k_pages.shape[2])
    bad = bad & ((block_table < 0) | (block_table >= count))
    if bool(bad.any()):
        b, i = (int(x) for x in bad.nonzero()[0])
        raise ValueError(
            f"{_NAME}: argument 'block_table' must name pages from 0 to {count - 1}, "
            f"got {int(block_table[b, i])} at [{b}, {i}]"
        )


def _gathered(
    pages: torch.Tensor, block_table: torch.Tensor, seq_lens: torch.Tensor
) -> torch.Tensor:
    """The pages of each sequence, one after the other: ``[B, Hkv, pages * page, ...]``."""
    used = _used(block_table, seq_lens, pages.shape[2])
    index = torch.where(used, block_table, 0).long()
    if pages.shape[0] == 0:
        return pages.new_zeros(
            (index.shape[0], pages.shape[1], index.shape[1] * pages.shape[2], *pages.shape[3:])
        )
    # Bytes: not every dtype can be indexed.
    found = pages.view(torch.uint8)[index] if pages.dtype.itemsize == 1 else pages[index]
    return found.view(pages.dtype).transpose(1, 2).flatten(2, 3)


def _contiguous(
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    options: dict[str, Any],
) -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
    """The arguments of ``attention_decode`` with the same meaning."""
    for name in ("k_scale", "v_scale"):
        if (scale := options.get(name)) is not None:
            full = scale.expand(k_pages.shape[:3])
            options = {**options, name: _gathered(full, block_table, seq_lens)}
    k = _gathered(k_pages, block_table, seq_lens)
    v = _gathered(v_pages, block_table, seq_lens)
    return (q, k, v, seq_lens), options


def _reference(
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    **options: Any,
) -> torch.Tensor:
    _check_pages(k_pages, block_table, seq_lens)
    args, options = _contiguous(q, k_pages, v_pages, block_table, seq_lens, options)
    return attention_cache.reference(*args, **options)


def _eager(
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    **options: Any,
) -> torch.Tensor:
    args, options = _contiguous(q, k_pages, v_pages, block_table, seq_lens, options)
    return attention_cache.eager(*args, **options)


def _cost(
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    window_left: int = -1,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    **_: Any,
) -> Cost:
    return attention_cache.cost(q, k_pages, v_pages, seq_lens, window_left, k_scale, v_scale)


def _row(
    dtype: torch.dtype, b: int, heads: tuple[int, int], keys: int, page: int, cache: str = ""
) -> Benchmark:
    given = ("full", *((f"cache:{cache}", "k_scale", "v_scale") if cache else ()))
    sizes = {**size(b, *heads, 1, keys, 128), "page": page}
    name = f"B{b} H{heads[0]}/{heads[1]} keys {keys} D128 page {page}"
    name += f" {cache} cache" if cache else ""
    return Benchmark(name=name, case=Case(sizes=sizes, given=given, lead=()), dtype=dtype)


ATTENTION_PAGED = OpSpec(
    name=_NAME,
    family="attention",
    schema=(
        "(Tensor q, Tensor k_pages, Tensor v_pages, Tensor block_table, Tensor seq_lens, *, "
        "Tensor? k_scale=None, Tensor? v_scale=None, float? scale=None, int window_left=-1, "
        "float softcap=0.0, Tensor? alibi_slopes=None, Tensor? sinks=None, Tensor? cos=None, "
        "Tensor? sin=None, bool interleaved=False) -> Tensor"
    ),
    dims={
        "q": "B Hq Sq D",
        "k_pages": "P Hkv page D",
        "v_pages": "P Hkv page Dv",
        "block_table": "B T",
        "seq_lens": "B",
        "alibi_slopes": "Hq",
        "sinks": "Hq",
    },
    arg_dtypes={
        "k_pages": CACHE_DTYPES,
        "v_pages": CACHE_DTYPES,
        "block_table": (torch.int32,),
        "seq_lens": (torch.int64, torch.int32),
        "alibi_slopes": (torch.float32,),
        "sinks": (torch.float32,),
        "k_scale": (torch.float32,),
        "v_scale": (torch.float32,),
        "cos": ("q", torch.float32),
        "sin": ("q", torch.float32),
    },
    check=_check,
    infer=lambda q, k_pages, v_pages, *_, **__: Out((*q.shape[:3], v_pages.shape[3]), q.dtype),
    native_backends=("cpu", "nvidia"),
    reference=_reference,
    eager=_eager,
    cost=_cost,
    build_inputs=build_paged,
    free_sizes=("B", "C", "D", "Dv"),
    differentiable=False,
    row_dims=3,
    cases=cases(pages=(8, 16, 5)),
    error_cases=errors(_NAME),
    benchmarks=(
        *(
            _row(torch.bfloat16, 8, (32, 8), 4096, page, cache)
            for cache in ("", "int8", "fp8")
            for page in (128, 16)
        ),
        _row(torch.bfloat16, 8, (32, 8), 4096, 8),
        _row(torch.bfloat16, 32, (32, 8), 512, 16),
        _row(torch.bfloat16, 32, (32, 8), 512, 128),
        _row(torch.bfloat16, 1, (32, 8), 32768, 16),
        _row(torch.bfloat16, 1, (32, 8), 32768, 128),
    ),
    doc="""
`attention_decode` where each sequence's keys and values lie in pages that a table names, so that
caches of any length share one pool without copies (Kwon et al., "PagedAttention", 2023).

- `k_pages` `[pages, Hkv, page, D]`, `v_pages` `[pages, Hkv, page, Dv]`, any page size;
  `block_table` `[B, T]`, int32: token t of sequence b lies in page `block_table[b, t // page]` at
  `t % page`.
  Entries behind `seq_lens` are never read and may hold anything.
- `k_scale`, `v_scale` (float32, broadcast to `[pages, Hkv, page]`): the cache's values are what is
  stored times these.
- `q`, `seq_lens` and the other options as in `attention_decode`; so are the results.

A length beyond the table, or a page that is not there, is an error.

On a GPU the lengths and pages stay on the device: an entry of which one is out of range gives NaN
instead of an error; float32, and queries that are to be turned (`cos`, `sin`), run the reference.
""",
)
