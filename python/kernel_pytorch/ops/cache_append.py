"""What ``kv_append`` and ``kv_append_quantize`` share: checks, places, reference, eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kernel_pytorch.ops.quantization import amax_of, fp8_scale, int8_scale, largest
from kernel_pytorch.ops.rotary import check_optional_tables, rotated
from kernel_pytorch.ops.spec import Benchmark, Case, Cost

__all__ = [
    "check",
    "cost",
    "places",
    "put",
    "quantized",
    "stored",
    "turned",
    "write",
]

Places = tuple[torch.Tensor, torch.Tensor]


def check(
    op: str,
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_table: torch.Tensor | None,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    interleaved: bool,
) -> None:
    """Raise for what the dims do not say."""

    def wrong(argument: str, expected: str, got: Any) -> ValueError:
        return ValueError(f"{op}: argument '{argument}' must {expected}, got {got}")

    if v_cache.dtype != k_cache.dtype:
        raise TypeError(
            f"{op}: argument 'v_cache' must have dtype {k_cache.dtype} like 'k_cache', "
            f"got {v_cache.dtype}"
        )
    batch = k.shape[0]
    if block_table is None:
        if k_cache.shape[0] != batch:
            raise wrong("k_cache", f"have {batch} entries", f"shape {list(k_cache.shape)}")
    elif block_table.dim() != 2 or block_table.shape[0] != batch:
        raise wrong("block_table", f"be [{batch}, pages]", f"shape {list(block_table.shape)}")
    check_optional_tables(op, "k", k, cos, sin, interleaved)


def places(
    op: str,
    tokens: int,
    k_cache: torch.Tensor,
    seq_lens: torch.Tensor,
    block_table: torch.Tensor | None,
) -> Places:
    """Entry or page, and row there, of each new token, both ``[B, S]``.

    Raises ValueError for a length that is not from S to the capacity, and for pages that are not
    there or get new tokens from two places.
    """
    size = k_cache.shape[2]
    capacity = size if block_table is None else size * block_table.shape[1]
    bad = (seq_lens < tokens) | (seq_lens > capacity)
    if bool(bad.any()):
        at = int(bad.nonzero()[0])
        raise ValueError(
            f"{op}: argument 'seq_lens' must be from {tokens} to the cache's {capacity}, "
            f"got {int(seq_lens[at])} at {at}"
        )
    steps = torch.arange(tokens, device=seq_lens.device)
    position = seq_lens.long()[:, None] - tokens + steps
    if block_table is None:
        return torch.arange(position.shape[0], device=position.device)[:, None].expand_as(
            position
        ), position
    column = position // max(size, 1)
    page = block_table.long().gather(1, column) if position.numel() else column
    count = k_cache.shape[0]
    missing = (page < 0) | (page >= count)
    if bool(missing.any()):
        b, i = (int(n) for n in missing.nonzero()[0])
        raise ValueError(
            f"{op}: argument 'block_table' must name pages from 0 to {count - 1}, "
            f"got {int(page[b, i])} at [{b}, {int(column[b, i])}]"
        )
    entries = torch.arange(page.shape[0], device=page.device)[:, None].expand_as(page)
    triples = torch.stack((page, entries, column), dim=-1).flatten(0, 1).unique(dim=0)
    used, times = triples[:, 0].unique(return_counts=True)
    if bool((times > 1).any()):
        raise ValueError(
            f"{op}: argument 'block_table' must name each page once for new tokens, "
            f"got page {int(used[times > 1][0])} twice"
        )
    return page, position % max(size, 1)


def put(cache: torch.Tensor, where: Places, rows: torch.Tensor) -> torch.Tensor:
    """``cache``, in the dtype of ``rows`` [B, H, S, ...], with these at their places."""
    filled = cache.to(rows.dtype, copy=True)
    if rows.numel():
        filled[where[0], :, where[1]] = rows.transpose(1, 2)
    return filled


def turned(
    k: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    interleaved: bool,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The keys at their positions, in ``dtype``."""
    return rotated(k.to(dtype), cos, sin, interleaved)


def stored(x: torch.Tensor, scale: torch.Tensor | None, cache: torch.Tensor) -> torch.Tensor:
    """``x`` over its scales, as far as ``cache`` can hold it, but not rounded to its dtype."""
    if scale is not None:
        x = x * (1.0 / scale)[..., None]
    if cache.dtype.itemsize > 1:
        return x
    x = x.clamp(-largest(cache.dtype), largest(cache.dtype))
    return x.nan_to_num(0.0) if cache.dtype == torch.int8 else x


def quantized(x: torch.Tensor, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with the scales of its rows, and these."""
    if cache.dtype == torch.int8:
        scale = int8_scale(x, "row", symmetric=True)[0]
    else:
        scale = fp8_scale(amax_of(x, "row"), cache.dtype)
    return stored(x, scale, cache), scale


def cost(k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, *args: Any, **_: Any) -> Cost:
    """New tokens are read and written once; the functional form copies the caches besides."""
    numbers = k.numel() + v.numel()
    return Cost(read_bytes=k.nbytes + v.nbytes, write_bytes=numbers * k_cache.itemsize)


def write(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    seq_lens: torch.Tensor,
    block_table: torch.Tensor | None,
    scales: tuple[torch.Tensor | None, torch.Tensor | None],
) -> Places:
    """What PyTorch users write into their caches, and where; ``scales`` are of the rows."""
    position = seq_lens[:, None] - k.shape[2] + torch.arange(k.shape[2])
    first = torch.arange(k.shape[0])[:, None]
    if block_table is not None:
        first = block_table.gather(1, position // k_cache.shape[2]).long()
        position = position % k_cache.shape[2]
    for x, cache, scale in zip((k, v), (k_cache, v_cache), scales):
        rows = x.transpose(1, 2)
        if scale is not None:
            rows = rows.float() / scale.transpose(1, 2)[..., None]
        if cache.dtype == torch.int8:
            rows = rows.round().clamp(-127, 127)
        cache[first, :, position] = rows.to(cache.dtype)
    return first, position


def benchmark(
    sizes: dict[str, int], eager: Callable[..., Any], *given: str, dtype: torch.dtype
) -> Benchmark:
    """A row of the operator that writes in place: caches beyond the processor's own."""
    name = "B{B} H{H} S{S} D{D}".format(**sizes)
    name += f" page {sizes['page']}" if "block_table" in given else ""
    formats = [g.partition(":")[2] for g in given if g.startswith("cache:")]
    name += "".join(f" {f} cache" for f in formats)
    case = Case(sizes=sizes, given=given, lead=())
    return Benchmark(name=name, case=case, dtype=dtype, eager=eager, in_place=True)
