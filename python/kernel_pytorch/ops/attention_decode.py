"""``kpt::attention_decode``: new query tokens against a contiguous key-value cache."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.ops import attention_cache, rotary
from kernel_pytorch.ops.attention_cache import CACHE_DTYPES
from kernel_pytorch.ops.attention_cache_samples import build_decode, cases, errors, size
from kernel_pytorch.ops.spec import Benchmark, Case, Cost, OpSpec, Out

_NAME = "attention_decode"


def _check(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    seq_lens: torch.Tensor,
    scale: float | None,
    window_left: int,
    softcap: float,
    alibi_slopes: torch.Tensor | None,
    sinks: torch.Tensor | None,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    interleaved: bool,
) -> None:
    rotary.check_optional_tables(_NAME, "q", q, cos, sin, interleaved)
    attention_cache.check_options(
        _NAME,
        ("k_cache", "v_cache"),
        q,
        k_cache,
        v_cache,
        scale,
        window_left,
        softcap,
        k_scale,
        v_scale,
    )


def _reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    seq_lens: torch.Tensor,
    **options: Any,
) -> torch.Tensor:
    attention_cache.check_lengths(_NAME, seq_lens, k_cache.shape[2])
    return attention_cache.reference(q, k_cache, v_cache, seq_lens, **options)


def _cost(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    window_left: int = -1,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    **_: Any,
) -> Cost:
    return attention_cache.cost(q, k_cache, v_cache, seq_lens, window_left, k_scale, v_scale)


def _row(
    dtype: torch.dtype, b: int, heads: tuple[int, int], keys: int, cache: str = ""
) -> Benchmark:
    return Benchmark(
        name=_row_name(b, heads, keys, cache),
        case=_row_case(b, heads, keys, cache),
        dtype=dtype,
        eager=attention_cache.sdpa,
    )


def _row_name(b: int, heads: tuple[int, int], keys: int, cache: str) -> str:
    name = f"B{b} H{heads[0]}/{heads[1]} keys {keys} D128"
    return name + (f" {cache} cache" if cache else "")


def _row_case(b: int, heads: tuple[int, int], keys: int, cache: str) -> Case:
    given = ("full", *((f"cache:{cache}", "k_scale", "v_scale") if cache else ()))
    return Case(sizes=size(b, *heads, 1, keys, 128), given=given, lead=())


def _against_bf16(b: int, heads: tuple[int, int], keys: int, cache: str) -> Benchmark:
    """A cache of one byte a number, timed against the same operator on one of two bytes."""
    return Benchmark(
        name=f"{_row_name(b, heads, keys, cache)} / bf16 cache",
        case=_row_case(b, heads, keys, cache),
        dtype=torch.bfloat16,
        eager=lambda *args: torch.ops.kpt.attention_decode(*args),
        eager_inputs=lambda q, k, v, lens, **_: (q, k.to(q.dtype), v.to(q.dtype), lens),
    )


ATTENTION_DECODE = OpSpec(
    name=_NAME,
    family="attention",
    schema=(
        "(Tensor q, Tensor k_cache, Tensor v_cache, Tensor seq_lens, *, float? scale=None, "
        "int window_left=-1, float softcap=0.0, Tensor? alibi_slopes=None, Tensor? sinks=None, "
        "Tensor? k_scale=None, Tensor? v_scale=None, Tensor? cos=None, Tensor? sin=None, "
        "bool interleaved=False) -> Tensor"
    ),
    dims={
        "q": "B Hq Sq D",
        "k_cache": "B Hkv C D",
        "v_cache": "B Hkv C Dv",
        "seq_lens": "B",
        "alibi_slopes": "Hq",
        "sinks": "Hq",
    },
    arg_dtypes={
        "k_cache": CACHE_DTYPES,
        "v_cache": CACHE_DTYPES,
        "seq_lens": (torch.int64, torch.int32),
        "alibi_slopes": (torch.float32,),
        "sinks": (torch.float32,),
        "k_scale": (torch.float32,),
        "v_scale": (torch.float32,),
        "cos": ("q", torch.float32),
        "sin": ("q", torch.float32),
    },
    check=_check,
    infer=lambda q, k_cache, v_cache, *_, **__: Out((*q.shape[:3], v_cache.shape[3]), q.dtype),
    native_backends=("cpu", "nvidia"),
    reference=_reference,
    eager=attention_cache.eager,
    cost=_cost,
    build_inputs=build_decode,
    free_sizes=("B", "C", "D", "Dv"),
    differentiable=False,
    row_dims=3,
    cases=cases(),
    error_cases=errors(_NAME),
    benchmarks=(
        _row(torch.bfloat16, 8, (32, 32), 4096),
        _row(torch.bfloat16, 1, (32, 8), 16384),
        _row(torch.bfloat16, 1, (32, 8), 512),
        _row(torch.bfloat16, 1, (32, 8), 32768),
        _row(torch.bfloat16, 8, (32, 8), 4096),
        _row(torch.bfloat16, 32, (32, 8), 512),
        _row(torch.bfloat16, 32, (32, 8), 2048),
        _row(torch.float32, 1, (32, 8), 16384),
        *(
            row
            for cache in ("int8", "fp8")
            for row in (
                _row(torch.bfloat16, 8, (32, 32), 4096, cache),
                _row(torch.bfloat16, 1, (32, 8), 16384, cache),
                _row(torch.bfloat16, 32, (32, 8), 512, cache),
                _against_bf16(8, (32, 32), 4096, cache),
                _against_bf16(1, (32, 8), 16384, cache),
            )
        ),
    ),
    doc="""
`out = softmax(scale * q k^T) v` of the newest `Sq` tokens of each sequence against all its keys, by
pieces of the keys that are put together at the end (Dao et al., "Flash-Decoding", 2023): one
sequence feeds every thread.

- `q` `[B, Hq, Sq, D]` in float32, float16 or bfloat16, `Sq` from 1 to 8; `k_cache`
  `[B, Hkv, capacity, D]` and `v_cache` `[B, Hkv, capacity, Dv]` in the same dtype, int8 or
  float8_e4m3fn. `Hq` is a multiple of `Hkv` (GQA, MQA). `out` is `[B, Hq, Sq, Dv]`.
- `seq_lens` `[B]`, int32 or int64: the keys of each sequence, those of the `Sq` queries included.
  Query i stands at position `seq_lens - Sq + i` and sees the keys up to its own; with
  `window_left >= 0` only that many before it. What lies behind `seq_lens` is never read. A query
  without a key gives 0.
- `k_scale`, `v_scale` (float32, broadcast to `[B, Hkv, capacity]`): the cache's values are what is
  stored times these.
- `softcap`, `alibi_slopes` `[Hq]`, `sinks` `[Hq]` as in `attention_forward`.
- `cos`, `sin` (`[Sq, R]` or `[B, Sq, R]`, float32 or `q`'s dtype; with `interleaved`) turn the
  queries first, as `rope` does with the angles of their positions, but without rounding in between.
  The cache holds keys that are turned already: `kv_append` takes the same tables.

A length outside the cache is an error. Sums are in float32; a result depends neither on the rest of
the batch nor on the number of threads.

On a GPU the lengths and pages stay on the device: an entry of which one is out of range gives NaN
instead of an error; float32, and queries that are to be turned (`cos`, `sin`), run the reference.
""",
)
