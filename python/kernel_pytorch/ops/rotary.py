"""Rotary tables: their check, and the rotation in plain PyTorch."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["check_optional_tables", "check_tables", "rotated", "tables", "turn"]


def _pairs(head_dim: Any, width: Any, interleaved: bool) -> Any:
    """Pairs that tables of this width rotate; 0 > the result where they do not fit."""
    if 2 * width <= head_dim:
        return width
    return width // 2 if width <= head_dim and width % 2 == 0 and not interleaved else -1


def check_tables(
    op: str, name: str, rows: torch.Tensor, cos: torch.Tensor, interleaved: bool
) -> None:
    """Refuse cosines that do not fit ``rows`` [B, H, S, D], the argument ``name``."""
    seqlen, head_dim = rows.shape[2], rows.shape[3]
    lead = cos.shape[:-1]
    if not (len(lead) in (1, 2) and lead[-1] == seqlen) or (
        len(lead) == 2 and lead[0] != rows.shape[0] and lead[0] != 1
    ):
        raise ValueError(
            f"{op}: argument 'cos' must be [seqlen, pairs] or [batch, seqlen, pairs] for {name} of "
            f"shape {list(rows.shape)}, got shape {list(cos.shape)}"
        )
    if _pairs(head_dim, cos.shape[-1], interleaved) < 0:
        halves = "" if interleaved else ", or an even number up to head_dim (each half the same)"
        raise ValueError(
            f"{op}: argument 'cos' must have at most head_dim / 2 = {head_dim // 2} columns"
            f"{halves}, got {cos.shape[-1]}"
        )


def check_optional_tables(
    op: str,
    name: str,
    rows: torch.Tensor,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    interleaved: bool,
) -> None:
    """The same for tables that are given together or not at all."""
    if cos is None or sin is None:
        if cos is not sin:
            missing = "cos" if cos is None else "sin"
            raise ValueError(
                f"{op}: argument '{missing}' must be given with the other one, got None"
            )
        return
    check_tables(op, name, rows, cos, interleaved)
    if sin.shape != cos.shape:
        raise ValueError(
            f"{op}: argument 'sin' must have shape {list(cos.shape)} like 'cos', "
            f"got {list(sin.shape)}"
        )
    if sin.dtype != cos.dtype:
        raise TypeError(
            f"{op}: argument 'sin' must have dtype {cos.dtype} like 'cos', got {sin.dtype}"
        )


def tables(
    rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tables as :func:`turn` wants them."""
    pairs = _pairs(rows.shape[-1], cos.shape[-1], interleaved)
    return cos[..., :pairs].unsqueeze(-3), sin[..., :pairs].unsqueeze(-3)


def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """The rotation of ``x`` by tables that broadcast over the heads."""
    pairs = cos.shape[-1]
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    else:
        a, b = turned[..., :pairs], turned[..., pairs:]
        turned = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return torch.cat((turned, rest), dim=-1)


def rotated(
    x: torch.Tensor, cos: torch.Tensor | None, sin: torch.Tensor | None, interleaved: bool
) -> torch.Tensor:
    """``x`` turned in its own dtype; as it is without tables."""
    if cos is None or sin is None:
        return x
    c, s = tables(x, cos.to(x.dtype), sin.to(x.dtype), interleaved)
    return turn(x, c, s, interleaved)
