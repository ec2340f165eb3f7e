"""``attention``: one function for every pattern, on the best implementation that is exact for it.

Patterns go to ``torch.ops.kpt.attention_forward``. A user's ``mask_mod`` goes there too, evaluated
once as a boolean mask. A user's ``score_mod`` runs in PyTorch's compiled FlexAttention where that
can compile it, and by the formula, which stores the scores, where it cannot (and for dropout and
returned weights). Which one ran is recorded (``kernel_pytorch.explain()``).
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from kernel_pytorch.attention.evaluate import dense_mask, evaluate
from kernel_pytorch.attention.pattern import MaskMod, Pattern, ScoreMod
from kernel_pytorch.core.dispatch_log import DispatchRecord, record, refuse_if_strict

__all__ = ["Rules", "attention", "check_shapes", "full_mask"]

_FULL = Pattern()
_KEPT_MASKS = 8
_FEW_QUERIES, _MANY_KEYS = 8, 64
_SMALL_SCORES = 1 << 22
"""On a CPU, so many scores are sooner computed than FlexAttention is compiled."""


class Rules:
    """What decides scores: a pattern, and functions of the user; remembers what it made of them.

    ``score_mod`` and ``mask_mod`` are FlexAttention's, and their query positions are those of the
    keys: i + Sk - Sq for query i. The pattern's scores come first, then ``score_mod``; the masks of
    both hold.
    """

    def __init__(
        self,
        pattern: Pattern | None = None,
        score_mod: ScoreMod | None = None,
        mask_mod: MaskMod | None = None,
    ) -> None:
        self.pattern = pattern or _FULL
        if isinstance(score_mod, Pattern):
            self.pattern, score_mod = self.pattern & score_mod, None
        self.score_mod = score_mod
        self.mask_mod = mask_mod
        self.masks: dict[Any, Any] = {}
        """Dense and block masks by what they depend on; the newest few."""
        self.refused = ""
        """Why FlexAttention could not compile these rules; "" where it was not tried or could."""

    def pattern_on(self, device: torch.device) -> Pattern:
        """The pattern with its tensors on ``device``, where they then stay."""
        self.pattern = self.pattern.to(device)
        return self.pattern

    def remember(self, key: Any, make: Any) -> Any:
        """The mask under ``key``, made once."""
        if key not in self.masks:
            if len(self.masks) >= _KEPT_MASKS:
                del self.masks[next(iter(self.masks))]
            self.masks[key] = make()
        return self.masks[key]

    def user_mask(
        self, sizes: tuple[int, int, int, int], device: torch.device
    ) -> torch.Tensor | None:
        """``mask_mod`` as booleans that broadcast to ``sizes``."""
        mod = self.mask_mod
        if mod is None or 0 in sizes:
            return None
        return self.remember(("dense", sizes, device), lambda: dense_mask(mod, sizes, device))

    def all_scores(self, score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        """The score function of everything but masks."""
        score = self.pattern.scores(score, b, h, q_idx, kv_idx)
        return score if self.score_mod is None else self.score_mod(score, b, h, q_idx, kv_idx)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    pattern: Pattern | None = None,
    score_mod: ScoreMod | None = None,
    mask_mod: MaskMod | None = None,
    attention_mask: torch.Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    compile: bool = True,
    rules: Rules | None = None,
    return_weights: bool = False,
) -> Any:
    """``softmax(mod(scale * q k^T)) v``.

    Args:
        q: ``[B, Hq, Sq, D]`` in float32, float16 or bfloat16 (float64 by the formula).
        k: ``[B, Hkv, Sk, D]``; ``Hq`` is a multiple of ``Hkv``.
        v: ``[B, Hkv, Sk, Dv]``.
        pattern: what the kernel does by itself.
        score_mod: FlexAttention's; a :class:`Pattern` is one too.
        mask_mod: FlexAttention's.
        attention_mask: ``[B, Sk]`` padding, ``[B, Sq, Sk]``, or ``[B, Hq, Sq, Sk]`` (any of these
            four may be 1): boolean or 0/1 integers (true: visible), or added to the scores.
        scale: of the scores; ``1 / sqrt(D)`` by default.
        dropout: probability with which weights are dropped; the caller knows whether it trains.
        compile: allow compiling FlexAttention for a ``score_mod`` (seconds, on the first call; on a
            CPU only where there are many scores).
        rules: these three instead of ``pattern``, ``score_mod``, ``mask_mod``, with their memory.
        return_weights: return ``(out, weights [B, Hq, Sq, Sk])``.

    A query that sees no key gives 0. Sums are in float32; equal to the formula in float64 within
    the dtype's rounding, as are the gradients of q, k, v and of tensors that ``score_mod`` reads.

    Raises ValueError or TypeError when shapes or dtypes do not fit.
    """
    check_shapes(q, k, v)
    if rules is None:
        rules = Rules(pattern, score_mod, mask_mod)
    scale = float(max(1, q.shape[-1])) ** -0.5 if scale is None else scale
    mask = full_mask(attention_mask, q, k)
    if rules.score_mod is None and not dropout and not return_weights:
        return _native(q, k, v, rules, mask, scale)
    if not dropout and not return_weights and 0 not in (q.numel(), k.numel(), v.numel()):
        reason = _why_not_compiled(q, k, v, rules, mask, compile)
        if not reason:
            try:
                return _compiled(q, k, v, rules, scale)
            except Exception as error:
                # An error of the user's function comes again below, where it can be understood.
                lines = [line for line in str(error).splitlines() if line.strip()]
                reason = f"it cannot be compiled: {lines[0] if lines else type(error).__name__}"
                rules.refused = reason
    else:
        reason = "dropout" if dropout else "weights are returned" if return_weights else "no data"
    device = q.device.type
    refuse_if_strict("attention", device, reason)
    record(DispatchRecord("attention", device, "reference", "formula", reason))
    out, weights = _by_formula(q, k, v, rules, mask, scale, dropout)
    return (out, weights) if return_weights else out


def _native(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rules: Rules,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    sizes = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    seen = rules.user_mask(sizes, q.device)
    if seen is not None and mask is not None:
        mask = seen & mask if mask.dtype == torch.bool else mask.where(seen, float("-inf"))
    elif seen is not None:
        mask = seen
    pattern = rules.pattern_on(q.device)
    out: torch.Tensor
    if mask is None and _is_decoding(q, k, v, pattern):
        lengths = torch.full((sizes[0],), sizes[3], dtype=torch.int32, device=q.device)
        out = torch.ops.kpt.attention_decode.default(
            q,
            k,
            v,
            lengths,
            scale=scale,
            window_left=pattern.window_left,
            softcap=pattern.softcap,
            alibi_slopes=pattern.alibi_slopes,
        )
        return out
    options = pattern.options(sizes[0], sizes[2], sizes[3])
    out = torch.ops.kpt.attention_forward.default(q, k, v, mask=mask, scale=scale, **options)[0]
    return out


def _is_decoding(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pattern: Pattern) -> bool:
    """Whether a few new tokens look back at many: ``attention_decode`` is for that (it has no
    gradient)."""
    rows, keys = q.shape[2], k.shape[2]
    if not (0 < rows <= _FEW_QUERIES and keys >= _MANY_KEYS and q.device.type == "cpu"):
        return False
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return False
    if pattern.documents is not None or pattern.prefix_len or pattern.window_right >= 0:
        return False
    # That operator's queries see nothing behind themselves; behind the last one there is nothing.
    return pattern.is_causal or rows == 1


def _by_formula(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rules: Rules,
    mask: torch.Tensor | None,
    scale: float,
    dropout: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    sizes = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    pattern = rules.pattern_on(q.device)
    terms = [rules.user_mask(sizes, q.device)]
    if pattern.masks and 0 not in sizes:
        terms.append(dense_mask(pattern.mask, sizes, q.device))
    bias: torch.Tensor | None = None
    if mask is not None and mask.dtype == torch.bool:
        terms.append(mask)
    elif mask is not None:
        bias = mask.expand(sizes)
    seen: torch.Tensor | None = None
    for term in terms:
        if term is not None:
            seen = term if seen is None else seen & term

    def scores(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        score = rules.all_scores(score, b, h, q_idx, kv_idx)
        if bias is None:
            return score
        return score + bias[b, h, q_idx - (sizes[3] - sizes[2]), kv_idx]

    plain = rules.score_mod is None and bias is None
    plain = plain and pattern.softcap == 0 and pattern.alibi_slopes is None
    return evaluate(
        q, k, v, scale=scale, score_mod=None if plain else scores, mask=seen, dropout=dropout
    )


def _why_not_compiled(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rules: Rules,
    mask: torch.Tensor | None,
    compile: bool,
) -> str:
    """Why these rules do not run in compiled FlexAttention; "" when they may."""
    if not compile:
        return "compilation is off"
    if rules.refused:
        return rules.refused
    if q.device.type not in ("cpu", "cuda", "xpu"):
        return f"FlexAttention does not compile for {q.device.type}"
    if q.dtype == torch.float64:
        return "FlexAttention does not compile for float64"
    if mask is not None:
        return "a mask for this call is given"
    if q.device.type == "cpu" and q.shape[:3].numel() * k.shape[2] <= _SMALL_SCORES:
        return "the scores are few"
    if q.device.type == "cpu" and torch.is_grad_enabled():
        # Also where q, k and v need none: the function may read something that does.
        return "FlexAttention has no gradient on the CPU"
    return ""


@functools.cache
def _flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, fullgraph=True)


def _compiled(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rules: Rules, scale: float
) -> torch.Tensor:
    from torch.nn.attention.flex_attention import create_block_mask

    rows, keys = q.shape[2], k.shape[2]
    offset = keys - rows
    pattern = rules.pattern_on(q.device)
    score_mod, mask_mod = rules.score_mod, rules.mask_mod

    def scores(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        score = pattern.scores(score, b, h, q_idx + offset, kv_idx)
        return score if score_mod is None else score_mod(score, b, h, q_idx + offset, kv_idx)

    def seen(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        visible = pattern.mask(b, h, q_idx + offset, kv_idx)
        return visible if mask_mod is None else visible & mask_mod(b, h, q_idx + offset, kv_idx)

    block_mask = None
    if pattern.masks or mask_mod is not None:
        sizes = (q.shape[0], q.shape[1], rows, keys)
        block_mask = rules.remember(
            ("block", sizes, q.device),
            lambda: create_block_mask(seen, *sizes, device=str(q.device)),
        )
    out: torch.Tensor = _flex()(
        q,
        k,
        v,
        score_mod=scores,
        block_mask=block_mask,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    record(DispatchRecord("attention", q.device.type, "native", "flex_attention", ""))
    return out


def check_shapes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Refuse q, k, v that do not fit together: ValueError, TypeError for dtypes."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() != 4:
            raise ValueError(
                f"attention: argument '{name}' must have 4 dimensions [batch, heads, seqlen, "
                f"head_dim], got shape {list(tensor.shape)}"
            )
        if tensor.dtype != q.dtype:
            raise TypeError(
                f"attention: argument '{name}' must have dtype {q.dtype} like 'q', got "
                f"{tensor.dtype}"
            )
    if k.shape[0] != q.shape[0] or k.shape[3] != q.shape[3] or v.shape[:3] != k.shape[:3]:
        raise ValueError(
            f"attention: arguments 'k' and 'v' must have shapes [{q.shape[0]}, heads, seqlen, "
            f"{q.shape[3]}] and the same but for the last, got {list(k.shape)} and {list(v.shape)}"
        )
    if k.shape[1] == 0 or q.shape[1] % max(1, k.shape[1]) != 0:
        raise ValueError(
            f"attention: argument 'q' must have a multiple of k's {k.shape[1]} heads, got "
            f"{q.shape[1]}"
        )


def full_mask(mask: torch.Tensor | None, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor | None:
    """``attention_mask`` in four dimensions: boolean, or to be added. ValueError if it does not
    fit."""
    if mask is None:
        return None
    batch, heads, rows, keys = q.shape[0], q.shape[1], q.shape[2], k.shape[2]
    if not mask.is_floating_point():
        mask = mask.to(torch.bool)
    shaped = mask
    if mask.dim() == 2:
        shaped = mask[:, None, None, :]
    elif mask.dim() == 3:
        shaped = mask[:, None]
    sizes = (batch, heads, rows, keys)
    fits = shaped.dim() == 4 and all(n in (1, want) for n, want in zip(shaped.shape, sizes))
    if not fits:
        raise ValueError(
            f"attention: argument 'attention_mask' must have shape [{batch}, {keys}] (padding), "
            f"[{batch}, {rows}, {keys}] or [{batch}, {heads}, {rows}, {keys}], each size may be 1, "
            f"got {list(mask.shape)}"
        )
    if shaped.is_floating_point() and shaped.dtype not in (torch.float32, q.dtype):
        shaped = shaped.to(q.dtype)
    return shaped
