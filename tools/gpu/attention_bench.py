"""Attention on a GPU: rows of the sizes that published kernels report, and PyTorch's other ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernel_pytorch.ops.attention_cache_samples import size as cache_size
from kernel_pytorch.ops.attention_samples import size
from kernel_pytorch.ops.spec import Benchmark, Case

__all__ = ["peers", "rows"]

_BACKENDS = {"sdpa flash": SDPBackend.FLASH_ATTENTION, "sdpa cudnn": SDPBackend.CUDNN_ATTENTION}
_WINDOW = 1024

Call = Callable[..., Any]


def _sequences(heads: tuple[int, int], length: int, dim: int, options: dict[str, Any]) -> Benchmark:
    words = " causal" if options.get("is_causal") else ""
    words += f" window {_WINDOW}" if "window_left" in options else ""
    sizes = size(1, *heads, length, length, dim)
    name = f"B1 H{heads[0]}/{heads[1]} S{length} D{dim}{words}"
    case = Case(sizes=sizes, options=options, lead=())
    return Benchmark(name=name, case=case, dtype=torch.bfloat16)


def _cached(batch: int, heads: tuple[int, int], keys: int, cache: str = "") -> Benchmark:
    given = (f"cache:{cache}",) if cache else ()
    name = f"B{batch} H{heads[0]}/{heads[1]} {keys} keys D128 {cache}".rstrip()
    case = Case(sizes=cache_size(batch, *heads, 1, keys, 128), given=given, lead=())
    return Benchmark(name=name, case=case, dtype=torch.bfloat16)


def rows(op: str) -> list[Benchmark]:
    """Rows beside the declared ones, which are made for a CPU."""
    causal = {"is_causal": True}
    if op in ("attention_forward", "attention_backward"):
        return [
            _sequences((16, 16), 16384, 128, causal),
            _sequences((16, 16), 16384, 128, {}),
            _sequences((32, 8), 4096, 128, causal),
            _sequences((32, 32), 1024, 64, causal),
            _sequences((16, 16), 16384, 64, {**causal, "window_left": _WINDOW}),
            _sequences((8, 8), 8192, 256, {}),
        ]
    if op == "attention_decode":
        return [
            _cached(32, (32, 8), 4096),
            _cached(1, (32, 8), 65536),
            _cached(32, (32, 8), 4096, "int8"),
            _cached(32, (32, 8), 4096, "fp8"),
        ]
    return []


def _sdpa(backend: SDPBackend) -> Call:
    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, is_causal: bool = False) -> Any:
        with sdpa_kernel(backend):
            grouped = q.shape[1] != k.shape[1]
            return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=grouped)

    return run


def _flex(options: Mapping[str, Any]) -> Call:
    """flex_attention, compiled, with the blocks that these options leave."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)
    masks: dict[tuple[int, int], Any] = {}
    window = options.get("window_left", -1)

    def visible(_b: Any, _h: Any, i: Any, j: Any) -> Any:
        return (j <= i) & (j >= i - window) if window >= 0 else j <= i

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **_: Any) -> Any:
        shape = (q.shape[2], k.shape[2])
        if options.get("is_causal") and shape not in masks:
            masks[shape] = create_block_mask(visible, None, None, *shape, device=str(q.device))
        grouped = q.shape[1] != k.shape[1]
        return compiled(q, k, v, block_mask=masks.get(shape), enable_gqa=grouped)

    return run


def _gradients(forward: Call) -> Call:
    """The backward alone: each set of arguments has its graph, made at the first call."""
    graphs: dict[int, Any] = {}

    def run(grad_out: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
            *_: Any, **options: Any) -> Any:  # fmt: skip
        if id(q) not in graphs:
            leaves = [x.detach().requires_grad_() for x in (q, k, v)]
            with torch.enable_grad():
                graphs[id(q)] = (forward(*leaves, **options), leaves)
        out, leaves = graphs[id(q)]
        return torch.autograd.grad(out, leaves, grad_out, retain_graph=True)

    return run


def peers(op: str, case: Case) -> dict[str, Call]:
    """PyTorch's ways to the same result, beside eager and compiled; those that the case's options
    rule out are left out."""
    if op not in ("attention_forward", "attention_backward") or case.given:
        return {}
    found: dict[str, Call] = {}
    if set(case.options) <= {"is_causal"}:
        found = {name: _sdpa(backend) for name, backend in _BACKENDS.items()}
    if set(case.options) <= {"is_causal", "window_left"}:
        found["flex_attention"] = _flex(case.options)
    if op == "attention_backward":
        found = {name: _gradients(forward) for name, forward in found.items()}
    return found
