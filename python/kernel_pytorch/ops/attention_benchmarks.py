"""Benchmark rows of attention_forward and attention_backward, beside PyTorch's
scaled_dot_product_attention; for softcap and sinks, which that lacks, beside the plain formula."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.ops import gradients
from kernel_pytorch.ops.attention import eager, sdpa
from kernel_pytorch.ops.attention_samples import size
from kernel_pytorch.ops.spec import Benchmark, Case

__all__ = ["BACKWARD", "FORWARD"]

# What is added to the name of a row, its options, and its optional tensors.
_Option = tuple[str, dict[str, Any], tuple[str, ...]]

_BF16, _FP16, _FP32 = torch.bfloat16, torch.float16, torch.float32


def _today(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    if options.get("softcap") or options.get("sinks") is not None:
        return eager(q, k, v, **options)[0]
    return sdpa(q, k, v, **options)


def _recorded(
    grad_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    **options: Any,
) -> tuple[Any, ...]:
    """A graph of the forward pass and what :func:`gradients.replay` takes."""
    outputs, leaves = gradients.recorded(lambda *t: _today(*t, **options), (q, k, v))
    with torch.inference_mode(False):
        return outputs, leaves, (grad_out.clone(),)


def _case(
    b: int,
    h: int,
    s: int,
    d: int,
    causal: bool = False,
    hkv: int | None = None,
    more: _Option = ("", {}, ()),
) -> tuple[str, Case]:
    text, options, given = more
    name = f"B{b} H{h}{'' if hkv is None else f'/{hkv}'} S{s} D{d}{' causal' if causal else ''}"
    if causal:
        options = {"is_causal": True} | options
    case = Case(sizes=size(b, h, hkv or h, s, s, d), options=options, given=given, lead=())
    return f"{name} {text}".rstrip(), case


def _forward(dtype: torch.dtype, *args: Any, hot: bool = False, **more: Any) -> Benchmark:
    name, case = _case(*args, **more)
    return Benchmark(name=name, case=case, dtype=dtype, eager=_today, hot=hot)


def _backward(dtype: torch.dtype, *args: Any, **more: Any) -> Benchmark:
    name, case = _case(*args, **more)
    return Benchmark(
        name=name, case=case, dtype=dtype, eager=gradients.replay, eager_inputs=_recorded
    )


_PADDED: _Option = ("padded", {}, ("mask:padding[B,1,1,Sk]",))
# Each beside the row without any: their shares of the limit tell what an option costs on the pairs
# that it leaves.
_OPTIONS: tuple[_Option, ...] = (
    ("", {}, ()),
    ("window 256", {"window_left": 256}, ()),
    ("prefix 128", {"prefix_len": 128}, ()),
    ("softcap", {"softcap": 20.0}, ()),
    ("alibi", {}, ("alibi_slopes",)),
    ("sinks", {}, ("sinks",)),
    ("bool mask", {}, ("mask:bool[B,1,Sq,Sk]",)),
    ("additive mask", {}, ("mask:float[B,1,Sq,Sk]",)),
    ("key mask", {}, ("mask:bool[B,1,1,Sk]",)),
    ("documents", {}, ("q_doc", "k_doc")),
)
_OPTION_ROW = (1, 8, 1024, 128, True)

FORWARD = (
    _forward(_BF16, 1, 16, 2048, 128, True),
    _forward(_BF16, 1, 8, 4096, 128),
    _forward(_BF16, 1, 16, 1001, 128, True, 4),
    _forward(_BF16, 1, 12, 512, 64, True),
    _forward(_BF16, 1, 12, 512, 64),
    _forward(_BF16, 32, 12, 128, 32, True),
    _forward(_BF16, 32, 12, 128, 32),
    _forward(_BF16, 32, 12, 128, 32, more=_PADDED),
    *(_forward(_BF16, 1, 12, s, 32, hot=True) for s in (16, 32, 64, 128)),
    _forward(_FP32, 1, 16, 2048, 128, True),
    _forward(_FP32, 1, 16, 1024, 64, True),
    _forward(_FP32, 1, 16, 1024, 64),
    _forward(_FP32, 32, 12, 128, 32),
    # head dimensions, lengths and dtypes
    *(
        _forward(dtype, 1, h, s, d, causal)
        for dtype in (_BF16, _FP16, _FP32)
        for h, s, d in ((32, 128, 128), (16, 512, 256), (8, 2048, 64))
        for causal in (False, True)
    ),
    *(_forward(_FP16, 1, 8, 1024, 128, causal) for causal in (False, True)),
    _forward(_BF16, 1, 4, 8192, 128, True),
    _forward(_BF16, 1, 4, 8192, 128, True, more=("window 1024", {"window_left": 1024}, ())),
    _forward(_BF16, 1, 32, 2048, 64, True, 4),
    *(_forward(_BF16, *_OPTION_ROW, more=option) for option in _OPTIONS),
)

BACKWARD = (
    _backward(_BF16, 1, 16, 2048, 128, True),
    _backward(_BF16, 1, 8, 2048, 128),
    _backward(_BF16, 1, 16, 1024, 128, True, 4),
    _backward(_BF16, 1, 12, 512, 64, True),
    _backward(_BF16, 1, 12, 512, 64),
    _backward(_BF16, 32, 12, 128, 32, True),
    _backward(_BF16, 32, 12, 128, 32),
    _backward(_FP32, 1, 16, 2048, 128, True),
    _backward(_FP32, 1, 16, 1024, 64, True),
    _backward(_FP32, 1, 16, 1024, 64),
    _backward(_FP32, 32, 12, 128, 32),
    *(_backward(_BF16, *_OPTION_ROW, more=option) for option in _OPTIONS),
)
