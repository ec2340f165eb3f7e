"""Attention of many patterns: each held against its definition, and timed against PyTorch."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from kernel_pytorch.attention import FlexAttentionScoreMods, Pattern, Rules, attention
from kernel_pytorch.core.dispatch_log import explain
from kernel_pytorch.demos.result import rounds
from kernel_pytorch.demos.walkthrough import Walkthrough

__all__ = ["run"]

_HEADS, _DIM = 8, 64
_FLOAT32 = 5e-6
_BFLOAT16 = 2e-2

Definition = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(scores [B, H, S, S], query positions [S, 1], key positions [1, S]) -> scores."""


def _hide(scores: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    return scores.masked_fill(~seen, float("-inf"))


def _patterns(length: int) -> dict[str, tuple[dict[str, Any], Definition]]:
    """Arguments of ``attention`` and what they mean, by name."""
    mods = FlexAttentionScoreMods
    window = length // 8
    documents = (torch.arange(length) * 5) // length
    slopes = torch.tensor([2.0 ** (-8 * (h + 1) / _HEADS) for h in range(_HEADS)]).view(-1, 1, 1)

    def stripes(b: Any, h: Any, i: Any, j: Any) -> Any:
        return (j <= i) & ((i - j) % 3 != 1)

    def decay(score: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        return score - 0.02 * (h + 1) * (i - j).abs()

    found: dict[str, tuple[Any, Definition]] = {
        "causal": (mods.causal, lambda s, i, j: _hide(s, j <= i)),
        "sliding window": (
            mods.sliding_window(window),
            lambda s, i, j: _hide(s, (i - j).abs() <= window),
        ),
        "causal sliding window": (
            mods.causal_sliding_window(window),
            lambda s, i, j: _hide(s, (j <= i) & (i - j <= window)),
        ),
        "ALiBi": (mods.alibi(_HEADS), lambda s, i, j: s - slopes * (i - j).abs()),
        "soft cap": (mods.soft_cap(5.0), lambda s, i, j: 5.0 * torch.tanh(s / 5.0)),
        "documents": (
            mods.document_masking(documents),
            lambda s, i, j: _hide(s, documents[i] == documents[j]),
        ),
        "prefix LM": (mods.prefix_lm(window), lambda s, i, j: _hide(s, (j <= i) | (j < window))),
    }
    given: dict[str, tuple[dict[str, Any], Definition]] = {
        name: ({"pattern": pattern}, meaning) for name, (pattern, meaning) in found.items()
    }
    given["a mask of the user's"] = (
        {"mask_mod": stripes},
        lambda s, i, j: _hide(s, (j <= i) & ((i - j) % 3 != 1)),
    )
    heads = torch.arange(_HEADS).view(-1, 1, 1)
    given["a score of the user's"] = (
        {"score_mod": decay, "pattern": Pattern(is_causal=True)},
        lambda s, i, j: _hide(s - 0.02 * (heads + 1) * (i - j).abs(), j <= i),
    )
    return given


def _error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.detach().double() - want).norm() / want.norm())


def run(
    *, quick: bool = False, seconds: float = 0.5, say: Callable[[str], None] = lambda _: None
) -> Walkthrough:
    """Every pattern forward and backward in float32, forward in bfloat16; timed against PyTorch's
    SDPA with the same mask. ``quick``: short sequences, nothing is compiled."""
    shown = Walkthrough(title="Flexible attention")
    length = 128 if quick else 1024
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    q, k, v, grad = (random(1, _HEADS, length, _DIM) for _ in range(4))
    i, j = torch.arange(length)[:, None], torch.arange(length)[None]
    rows = []
    for name, (options, meaning) in _patterns(length).items():
        say(f"attention: {name}")
        exact = [t.double().requires_grad_() for t in (q, k, v)]
        scores = meaning(exact[0] @ exact[1].mT * _DIM**-0.5, i, j)
        wanted = torch.softmax(scores, -1) @ exact[2]
        wanted_grads = torch.autograd.grad(wanted, exact, grad.double())

        inputs = [t.clone().requires_grad_() for t in (q, k, v)]
        found = attention(*inputs, **options)
        grads = torch.autograd.grad(found, inputs, grad)
        error = _error(found, wanted.detach())
        error_backward = max(_error(g, w) for g, w in zip(grads, wanted_grads))
        with torch.no_grad(), explain() as calls:
            half = attention(*(t.bfloat16() for t in (q, k, v)), **options)
        ran = calls.calls[-1]
        error_half = _error(half, wanted.detach())
        shown.at_most(f"{name}: forward, relative error", error, _FLOAT32)
        shown.at_most(f"{name}: backward, relative error", error_backward, _FLOAT32)
        shown.at_most(f"{name}: bfloat16, relative error", error_half, _BFLOAT16)
        figures = (name, f"{ran.implementation} {ran.variant}", f"{error:.1e}", f"{error_half:.1e}")
        rows.append((*figures, *_speed(options, meaning, (q, k, v), seconds)))
    heads = ("pattern", "ran", "error fp32", "error bf16", "ms bf16", "SDPA, ms", "times faster")
    shown.listing(f"{_HEADS} heads of {_DIM}, {length} tokens", heads, rows)
    return shown.finished()


def _speed(
    options: dict[str, Any],
    meaning: Definition,
    inputs: tuple[torch.Tensor, ...],
    seconds: float,
) -> tuple[str, str, str]:
    """Milliseconds in bfloat16, those of SDPA, and how many times faster the former is."""
    q, k, v = (t.bfloat16() for t in inputs)
    length = q.shape[2]
    # A definition of additions and masks is what it makes of zeros; a soft cap SDPA cannot do.
    i, j = torch.arange(length)[:, None], torch.arange(length)[None]
    capped = getattr(options.get("pattern"), "softcap", 0.0) > 0
    bias = meaning(torch.zeros(1, q.shape[1], length, length), i, j).to(q.dtype)
    rules = Rules(**options)  # which remember a mask function's mask, as a module does
    calls: dict[str, Callable[[], object]] = {"ours": lambda: attention(q, k, v, rules=rules)}
    if not capped:
        calls["sdpa"] = lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    with torch.no_grad():
        times = rounds(calls, seconds, least=3)
    ours = statistics.median(times["ours"])
    if capped:
        return f"{ours * 1e3:.2f}", "-", "-"
    ratio = statistics.median(b / a for a, b in zip(times["ours"], times["sdpa"]))
    return f"{ours * 1e3:.2f}", f"{statistics.median(times['sdpa']) * 1e3:.2f}", f"{ratio:.2f}x"
