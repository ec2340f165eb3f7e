"""What the operators that read a key-value cache share: reference, eager, checks, cost."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.attention import default_scale
from kernel_pytorch.ops.rotary import rotated
from kernel_pytorch.ops.spec import Cost

__all__ = [
    "CACHE_DTYPES",
    "MAX_QUERIES",
    "check_lengths",
    "check_options",
    "cost",
    "eager",
    "reference",
    "sdpa",
]

MAX_QUERIES = 8
CACHE_DTYPES = ("q", torch.int8, torch.float8_e4m3fn)
"""Of keys: the queries' dtype, or one byte with scales."""


def check_options(
    name: str,
    caches: tuple[str, str],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float | None,
    window_left: int,
    softcap: float,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
) -> None:
    """Raise for what the dims do not say; ``caches`` names the arguments ``k`` and ``v``."""

    def wrong(argument: str, expected: str, got: Any) -> ValueError:
        return ValueError(f"{name}: argument '{argument}' must {expected}, got {got}")

    if q.shape[2] > MAX_QUERIES:
        raise wrong("q", f"have at most {MAX_QUERIES} query tokens", q.shape[2])
    heads, heads_kv = q.shape[1], k.shape[1]
    if heads != heads_kv and (heads_kv == 0 or heads % heads_kv != 0):
        raise wrong("q", f"have a multiple of {caches[0]}'s {heads_kv} heads", f"{heads} heads")
    if v.dtype != k.dtype:
        raise TypeError(
            f"{name}: argument '{caches[1]}' must have dtype {k.dtype} like '{caches[0]}', "
            f"got {v.dtype}"
        )
    for argument, given in (("k_scale", k_scale), ("v_scale", v_scale)):
        if given is None:
            continue
        full = list(k.shape[:3])
        fits = given.dim() <= 3 and all(
            have in (want, 1) for have, want in zip(reversed(given.shape), reversed(full))
        )
        if not fits:
            raise wrong(argument, f"broadcast to {full}", f"shape {list(given.shape)}")
    if scale is not None and not math.isfinite(scale):
        raise wrong("scale", "be finite", scale)
    if not 0.0 <= softcap < math.inf:
        raise wrong("softcap", "be finite and not negative", softcap)
    if window_left < -1:
        raise wrong("window_left", "be -1 (no limit) or more", window_left)


def check_lengths(name: str, seq_lens: torch.Tensor, capacity: int) -> None:
    """Raise ValueError where a length is not from 0 to ``capacity``."""
    bad = (seq_lens < 0) | (seq_lens > capacity)
    if bool(bad.any()):
        at = int(bad.nonzero()[0])
        raise ValueError(
            f"{name}: argument 'seq_lens' must be from 0 to the cache's {capacity}, "
            f"got {int(seq_lens[at])} at {at}"
        )


def _visible(
    q: torch.Tensor, k: torch.Tensor, seq_lens: torch.Tensor, window_left: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance of query and key ``[B, 1, Sq, C]``, and whether the query sees the key."""
    rows = torch.arange(q.shape[2], device=q.device)
    position = seq_lens.long()[:, None] - q.shape[2] + rows
    distance = position[:, None, :, None] - torch.arange(k.shape[2], device=q.device)
    seen = distance >= 0
    if window_left >= 0:
        seen = seen & (distance <= window_left)
    return distance, seen


def _loaded(cache: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    values = cache.to(dtype)
    if scale is None:
        return values
    full = scale.to(dtype).expand(cache.shape[:3])
    return values * full[..., None]


def _repeated(q: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
    group = q.shape[1] // max(1, cache.shape[1])
    return cache.repeat_interleave(group, dim=1) if group > 1 else cache


def _formula(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    scale: float | None = None,
    window_left: int = -1,
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
    interleaved: bool = False,
) -> torch.Tensor:
    """Every step in the dtype of ``q``."""
    q = rotated(q, cos, sin, interleaved)
    distance, seen = _visible(q, k, seq_lens, window_left)
    # Behind the end a cache may hold anything.
    unused = (torch.arange(k.shape[2], device=q.device) >= seq_lens[:, None])[:, None, :, None]
    keys = _repeated(q, _loaded(k, k_scale, q.dtype))
    values = _repeated(q, _loaded(v, v_scale, q.dtype).masked_fill(unused, 0.0))
    scores = q @ keys.transpose(-1, -2) * (default_scale(q) if scale is None else scale)
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)
    if alibi_slopes is not None:
        scores = scores - alibi_slopes.to(q.dtype)[:, None, None] * distance.to(q.dtype)
    scores = scores.masked_fill(~seen, float("-inf"))
    logits = scores
    if sinks is not None:
        sink = sinks.to(q.dtype).view(1, -1, 1, 1).expand(q.shape[0], -1, q.shape[2], -1)
        logits = torch.cat([scores, sink], dim=-1)
    lse = torch.logsumexp(logits, dim=-1)
    lse = lse.masked_fill((scores == float("inf")).any(dim=-1), float("nan"))
    p = torch.exp(scores - lse.masked_fill(lse == float("-inf"), 0.0)[..., None])
    return p @ values


def reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    seq_lens: torch.Tensor,
    **options: Any,
) -> torch.Tensor:
    """The formula in float32 (float64 for float64 inputs), rounded once."""

    def floats(cache: torch.Tensor) -> torch.Tensor:
        return wide(cache) if cache.dtype.itemsize > 1 else cache

    return _formula(wide(q), floats(k), floats(v), seq_lens, **options).to(q.dtype)


def sdpa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    scale: float | None = None,
    window_left: int = -1,
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
    interleaved: bool = False,
) -> torch.Tensor:
    """``F.scaled_dot_product_attention`` on the cache, converted where it is stored in one byte;
    it has neither softcap nor sinks."""
    assert softcap == 0 and sinks is None
    q = rotated(q, cos, sin, interleaved)
    distance, seen = _visible(q, k, seq_lens, window_left)
    mask = seen
    if alibi_slopes is not None:
        bias = -alibi_slopes.to(q.dtype)[:, None, None] * distance.to(q.dtype)
        mask = torch.where(seen, bias, float("-inf"))
    return F.scaled_dot_product_attention(
        q,
        _loaded(k, k_scale, q.dtype),
        _loaded(v, v_scale, q.dtype),
        mask,
        scale=default_scale(q) if scale is None else scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def eager(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    seq_lens: torch.Tensor,
    **options: Any,
) -> torch.Tensor:
    """What users write in the inputs' dtype: SDPA where it can, else the plain formula."""
    # SDPA does not define what it does with empty sizes.
    empty = 0 in (q.numel(), k.numel(), v.numel())
    if empty or options.get("softcap") or options.get("sinks") is not None:
        return _formula(q, k, v, seq_lens, **options)
    return sdpa(q, k, v, seq_lens, **options)


def cost(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    seq_lens: torch.Tensor,
    window_left: int = -1,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> Cost:
    """Every visible key and value is read once."""
    batch, heads, rows, dim = q.shape
    dim_v = v.shape[3]
    lengths = seq_lens.double()
    if window_left >= 0:
        lengths = lengths.clamp(max=window_left + rows)
    keys = float(lengths.sum())
    row_bytes = (dim + dim_v) * k.itemsize
    row_bytes += sum(4 for s in (k_scale, v_scale) if s is not None)
    return Cost(
        flops=2.0 * heads * rows * keys * (dim + dim_v),
        read_bytes=q.nbytes + keys * k.shape[1] * row_bytes,
        write_bytes=batch * heads * rows * dim_v * q.itemsize,
        compute="bf16" if q.dtype == torch.bfloat16 else "fp32",
    )
