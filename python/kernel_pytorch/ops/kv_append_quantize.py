"""``kpt::kv_append_quantize``: new keys and values into a cache, with scales of their own."""

from __future__ import annotations

import functools
from typing import Any

import torch

from kernel_pytorch.ops import cache_append, cache_append_samples
from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.attention_cache import CACHE_DTYPES
from kernel_pytorch.ops.quantization import largest
from kernel_pytorch.ops.spec import Benchmark, Case, ErrorCase, OpSpec, Out, Tolerance, cases

_NAME = "kv_append_quantize"
_Four = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _check(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k_scale: torch.Tensor,
    v_scale: torch.Tensor,
    seq_lens: torch.Tensor,
    block_table: torch.Tensor | None,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    interleaved: bool,
) -> None:
    cache_append.check(_NAME, k, v, k_cache, v_cache, block_table, cos, sin, interleaved)
    for argument, scale in (("k_scale", k_scale), ("v_scale", v_scale)):
        if scale.shape != k_cache.shape[:3]:
            raise ValueError(
                f"{_NAME}: argument '{argument}' must have shape {list(k_cache.shape[:3])}, "
                f"got {list(scale.shape)}"
            )


def _append(
    dtype: torch.dtype,
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k_scale: torch.Tensor,
    v_scale: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    block_table: torch.Tensor | None = None,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
    interleaved: bool = False,
) -> _Four:
    """The caches before rounding to their dtype, and the scales; keys turn in ``dtype``."""
    where = cache_append.places(_NAME, k.shape[2], k_cache, seq_lens, block_table)
    rows = cache_append.turned(k, cos, sin, interleaved, dtype), v.to(dtype)
    floats = torch.promote_types(dtype, torch.float32)
    caches, scales = [], []
    for x, cache, scale in zip(rows, (k_cache, v_cache), (k_scale, v_scale)):
        codes, measured = cache_append.quantized(x.to(floats), cache)
        caches.append(cache_append.put(cache, where, codes))
        scales.append(cache_append.put(scale, where, measured))
    return caches[0], caches[1], scales[0], scales[1]


def _reference(k: torch.Tensor, *args: Any, **options: Any) -> _Four:
    return _append(wide(k).dtype, k, *args, **options)


def _eager(
    k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, *args: Any, **options: Any
) -> _Four:
    *codes, k_scale, v_scale = _append(k.dtype, k, v, k_cache, *args, **options)
    if k_cache.dtype == torch.int8:
        codes = [c.round() for c in codes]
    return codes[0].to(k_cache.dtype), codes[1].to(k_cache.dtype), k_scale, v_scale


def _build(
    case: Case, dtype: torch.dtype, generator: torch.Generator
) -> tuple[list[Any], dict[str, Any]]:
    args, options, full = cache_append_samples.build(case, dtype, generator)
    scales = [torch.rand(full, generator=generator) + 0.01 for _ in range(2)]
    if dtype == torch.float64:
        scales = [s.double() for s in scales]
    return [*args[:4], *scales, args[4]], options


def _write(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k_scale: torch.Tensor,
    v_scale: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    block_table: torch.Tensor | None = None,
    **_: Any,
) -> None:
    measured = tuple(x.abs().amax(-1).float() / largest(k_cache.dtype) for x in (k, v))
    where = cache_append.write(k, v, k_cache, v_cache, seq_lens, block_table, measured)
    for stored, scale in zip((k_scale, v_scale), measured):
        stored[where[0], :, where[1]] = scale.transpose(1, 2)


def _row(*given: str, **sizes: int) -> Benchmark:
    shape = {**cache_append_samples.size(8, 8, 1, 512, 128), **sizes}
    return cache_append.benchmark(shape, _write, *given, dtype=torch.bfloat16)


def _refused(name: str, match: str, error: type[Exception], **changes: Any) -> ErrorCase:
    def call(op: Any) -> Any:
        dtype = changes.get("dtype", torch.int8)
        scales = [changes.get(n, torch.ones(2, 2, 6)) for n in ("k_scale", "v_scale")]
        return op(
            torch.ones(2, 2, 1, 8),
            torch.ones(2, 2, 1, 8),
            torch.ones(2, 2, 6, 8, dtype=dtype),
            torch.ones(2, 2, 6, 8, dtype=dtype),
            *scales,
            torch.tensor([6, 3]),
        )

    return ErrorCase(name=name, call=call, error=error, match=f"{_NAME}: argument {match}")


KV_APPEND_QUANTIZE = OpSpec(
    name=_NAME,
    family="attention",
    schema=(
        "(Tensor k, Tensor v, Tensor k_cache, Tensor v_cache, Tensor k_scale, Tensor v_scale, "
        "Tensor seq_lens, *, Tensor? block_table=None, Tensor? cos=None, Tensor? sin=None, "
        "bool interleaved=False) "
        "-> (Tensor k_cache, Tensor v_cache, Tensor k_scale, Tensor v_scale)"
    ),
    dims={
        "k": "B H S D",
        "v": "B H S Dv",
        "k_cache": "N H C D",
        "v_cache": "N H C Dv",
        "seq_lens": "B",
    },
    arg_dtypes={
        "k_cache": CACHE_DTYPES[1:],
        "v_cache": CACHE_DTYPES[1:],
        "k_scale": (torch.float32,),
        "v_scale": (torch.float32,),
        "seq_lens": (torch.int64, torch.int32),
        "block_table": (torch.int32,),
        "cos": ("k", torch.float32),
        "sin": ("k", torch.float32),
    },
    check=_check,
    infer=lambda k, v, k_cache, v_cache, k_scale, v_scale, *_, **__: tuple(
        Out(t.shape, t.dtype) for t in (k_cache, v_cache, k_scale, v_scale)
    ),
    reference=_reference,
    eager=_eager,
    differentiable=False,
    in_place=("k_cache", "v_cache", "k_scale", "v_scale"),
    tolerance=Tolerance(integers=1e-3),
    cost=cache_append.cost,
    build_inputs=_build,
    free_sizes=("B", "C", "D", "Dv"),
    row_dims=None,
    cases=cache_append_samples.cases(
        functools.partial(cases, leads=((),)), (("cache:int8",), ("cache:fp8",))
    ),
    error_cases=(
        *cache_append_samples.errors(
            _NAME,
            lambda op, arguments: op(**arguments),
            {"k_scale": torch.ones(2, 2, 6), "v_scale": torch.ones(2, 2, 6)},
        ),
        _refused("cache in float32", "'k_cache' must have dtype", TypeError, dtype=torch.float32),
        _refused(
            "scales of heads",
            "'k_scale' must have shape",
            ValueError,
            k_scale=torch.ones(1, 2, 6),
        ),
        _refused(
            "scales of another size",
            "'v_scale' must have shape",
            ValueError,
            v_scale=torch.ones(2, 2, 7),
        ),
        _refused(
            "scales in float64",
            "'k_scale' must have dtype float32",
            TypeError,
            k_scale=torch.ones(2, 2, 6, dtype=torch.float64),
        ),
    ),
    benchmarks=(
        _row("cache:int8"),
        _row("cache:int8", "block_table", page=16),
        _row("cache:fp8"),
        _row("cache:int8", B=1, S=2048, C=2048),
        _row("cache:fp8", B=1, S=2048, C=2048),
    ),
    doc="""
`kv_append` into caches of one byte a number, with a scale for each token and head that is measured
on the way and stored beside them: `attention_decode` and `attention_paged` take `k_scale` and
`v_scale` as they are. `kv_append_quantize_`, with the same arguments, writes into the caches and
scales and returns nothing: that is the one to use. `kv_append_quantize` returns changed copies.

- `k_cache`, `v_cache` in int8 or float8_e4m3fn; `k_scale`, `v_scale` (float32) have their shape but
  for the last dimension. The rest is as in `kv_append`.
- A scale is `max(abs(x)) / 127` for int8, `/ 448` for float8_e4m3fn, but at least `2^-126`; 1 for a
  row of zeros. A row with an infinity has the scale NaN; so has, for int8, one with NaN.
""",
)
