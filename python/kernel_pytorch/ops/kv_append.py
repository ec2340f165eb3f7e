"""``kpt::kv_append``: new keys and values into a key-value cache."""

from __future__ import annotations

import functools
from typing import Any

import torch

from kernel_pytorch.ops import cache_append, cache_append_samples
from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.attention_cache import CACHE_DTYPES
from kernel_pytorch.ops.spec import Benchmark, Case, ErrorCase, OpSpec, Out, Tolerance, cases

_NAME = "kv_append"


def _check(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    seq_lens: torch.Tensor,
    block_table: torch.Tensor | None,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    interleaved: bool,
) -> None:
    cache_append.check(_NAME, k, v, k_cache, v_cache, block_table, cos, sin, interleaved)
    for argument, scale in (("k_scale", k_scale), ("v_scale", v_scale)):
        full = k_cache.shape[:3]
        if scale is not None and (
            scale.dim() > 3
            or any(have not in (want, 1) for have, want in zip(scale.shape[::-1], full[::-1]))
        ):
            raise ValueError(
                f"{_NAME}: argument '{argument}' must broadcast to {list(full)}, "
                f"got shape {list(scale.shape)}"
            )


def _infer(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    *_: Any,
    **__: Any,
) -> tuple[Out, Out]:
    return Out(k_cache.shape, k_cache.dtype), Out(v_cache.shape, v_cache.dtype)


def _at(
    scale: torch.Tensor | None, cache: torch.Tensor, where: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor | None:
    """The scales of the new tokens, ``[B, H, S]``."""
    if scale is None:
        return None
    full = scale.expand(cache.shape[:3])
    return full[where[0], :, where[1]].transpose(1, 2)


def _append(
    dtype: torch.dtype,
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    block_table: torch.Tensor | None = None,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
    interleaved: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The caches before rounding to their dtype, computed in ``dtype``."""
    where = cache_append.places(_NAME, k.shape[2], k_cache, seq_lens, block_table)
    rows = cache_append.turned(k, cos, sin, interleaved, dtype), v.to(dtype)
    found = []
    for x, cache, scale in zip(rows, (k_cache, v_cache), (k_scale, v_scale)):
        at = _at(scale, cache, where)
        at = None if at is None else at.to(torch.promote_types(dtype, torch.float32))
        found.append(cache_append.put(cache, where, cache_append.stored(x, at, cache)))
    return found[0], found[1]


def _reference(k: torch.Tensor, *args: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return _append(wide(k).dtype, k, *args, **options)


def _eager(
    k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, *args: Any, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    found = _append(k.dtype, k, v, k_cache, *args, **options)
    if k_cache.dtype == torch.int8:
        return found[0].round().to(torch.int8), found[1].round().to(torch.int8)
    return found[0].to(k_cache.dtype), found[1].to(k_cache.dtype)


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    args, options, full = cache_append_samples.build(case, dtype, generator)
    for name in ("k_scale", "v_scale"):
        kind = next((g for g in case.given if g.startswith(name)), None)
        options[name] = None
        if kind is not None:
            shape = (1, full[1], 1) if kind.endswith(":head") else full
            # Small ones as well, so that some elements saturate.
            value = torch.rand(shape, generator=generator) * 0.03 + 0.005
            options[name] = value.double() if dtype == torch.float64 else value
    return args, options


_FORMATS: tuple[tuple[str, ...], ...] = (
    (),
    ("cache:int8", "k_scale", "v_scale"),
    ("cache:fp8", "k_scale:head", "v_scale:head"),
    ("k_scale", "v_scale:head"),
    ("cache:fp8",),
    ("cache:int8", "v_scale"),
)


def _write(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    block_table: torch.Tensor | None = None,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    **_: Any,
) -> None:
    # A scale a head, which is the same for every token.
    k_at, v_at = (None if s is None else s.expand(1, *k.shape[1:3]) for s in (k_scale, v_scale))
    cache_append.write(k, v, k_cache, v_cache, seq_lens, block_table, (k_at, v_at))


def _row(sizes: dict[str, int], *given: str) -> Benchmark:
    return cache_append.benchmark(sizes, _write, *given, dtype=torch.bfloat16)


_INT8 = ("cache:int8", "k_scale:head", "v_scale:head")
_TOKEN = cache_append_samples.size(8, 8, 1, 512, 128)
_PROMPT = cache_append_samples.size(1, 8, 2048, 2048, 128)


def _refused(
    name: str,
    label: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    error: type[Exception],
    match: str,
) -> ErrorCase:
    def call(op: Any) -> Any:
        rows, cache = torch.ones(2, 2, 1, 8), torch.ones(2, 2, 6, 8)
        scale = {name: torch.ones(shape, dtype=dtype)}
        return op(rows, rows, cache, cache, torch.tensor([6, 3]), **scale)

    return ErrorCase(
        name=f"{name} of {label}",
        call=call,
        error=error,
        match=f"{_NAME}: argument '{name}' must {match}",
    )


KV_APPEND = OpSpec(
    name=_NAME,
    family="attention",
    schema=(
        "(Tensor k, Tensor v, Tensor k_cache, Tensor v_cache, Tensor seq_lens, *, "
        "Tensor? block_table=None, Tensor? k_scale=None, Tensor? v_scale=None, Tensor? cos=None, "
        "Tensor? sin=None, bool interleaved=False) -> (Tensor k_cache, Tensor v_cache)"
    ),
    dims={
        "k": "B H S D",
        "v": "B H S Dv",
        "k_cache": "N H C D",
        "v_cache": "N H C Dv",
        "seq_lens": "B",
    },
    arg_dtypes={
        "k_cache": ("k", *CACHE_DTYPES[1:]),
        "v_cache": ("k", *CACHE_DTYPES[1:]),
        "seq_lens": (torch.int64, torch.int32),
        "block_table": (torch.int32,),
        "k_scale": (torch.float32,),
        "v_scale": (torch.float32,),
        "cos": ("k", torch.float32),
        "sin": ("k", torch.float32),
    },
    check=_check,
    infer=_infer,
    reference=_reference,
    eager=_eager,
    differentiable=False,
    in_place=("k_cache", "v_cache"),
    # Keys turn in float32; beyond half a step of int8 only their rounding there counts.
    tolerance=Tolerance(integers=1e-3),
    cost=cache_append.cost,
    build_inputs=_build,
    free_sizes=("B", "C", "D", "Dv"),
    row_dims=None,
    cases=cache_append_samples.cases(functools.partial(cases, leads=((),)), _FORMATS),
    error_cases=(
        *cache_append_samples.errors(_NAME, lambda op, arguments: op(**arguments), {}),
        *(
            _refused(name, *scale)
            for name in ("k_scale", "v_scale")
            for scale in (
                ("another batch", (3, 2, 6), torch.float32, ValueError, "broadcast to"),
                ("four dimensions", (2, 2, 6, 1), torch.float32, ValueError, "broadcast to"),
                ("bfloat16", (2, 2, 6), torch.bfloat16, TypeError, "have dtype float32"),
            )
        ),
    ),
    benchmarks=(
        _row(_TOKEN),
        _row({**_TOKEN, "page": 16}, "block_table"),
        _row(_TOKEN, *_INT8),
        _row(_PROMPT),
        _row(_PROMPT, *_INT8),
    ),
    doc="""
Puts the newest `S` keys and values of each sequence into its cache, where `attention_decode` and
`attention_paged` look for them: token i goes to position `seq_lens - S + i`, so that one `seq_lens`
(which counts the new tokens) serves both. `kv_append_`, with the same arguments, writes into
`k_cache` and `v_cache` and returns nothing: that is the one to use. `kv_append` returns changed
copies.

- `k` `[B, H, S, D]` and `v` `[B, H, S, Dv]` in float32, float16 or bfloat16, any `S`; `k_cache`
  `[B, H, capacity, D]` and `v_cache` `[B, H, capacity, Dv]` in the same dtype, int8 or
  float8_e4m3fn; `seq_lens` `[B]`, int32 or int64, each from `S` to the capacity.
- `block_table` `[B, T]` (int32): the caches are `[pages, H, page, D]` and `[pages, H, page, Dv]`,
  and token t of sequence b lies in page `block_table[b, t // page]` at `t % page`. No page may get
  new tokens from two places.
- `k_scale`, `v_scale` (float32, broadcast to the caches without their last dimension): what is
  stored is `x * (1 / scale)` in float32, rounded once to nearest even; int8 saturates to 127 and
  has 0 for NaN, float8_e4m3fn saturates to 448 and keeps NaN.
- `cos`, `sin` (`[S, R]` or `[B, S, R]`, float32 or `k`'s dtype; with `interleaved`) turn the keys
  first, as `rope` does, without rounding in between. Give `attention_decode` the same tables.

A length out of range, or a page that is not there, is an error, and then nothing is written. The
caches may be parts of one tensor, such as `pool[:, 0]` and `pool[:, 1]`. There are no gradients.
""",
)
