"""Refused calls of the operators on packed sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from kernel_pytorch.ops.spec import ErrorCase

__all__ = ["BACKWARD_ERRORS", "ERRORS"]


def _good() -> dict[str, Any]:
    return {
        "q": torch.ones(5, 4, 8),
        "k": torch.ones(7, 2, 8),
        "v": torch.ones(7, 2, 8),
        "cu_seqlens_q": torch.tensor([0, 3, 5], dtype=torch.int32),
        "cu_seqlens_k": torch.tensor([0, 3, 7], dtype=torch.int32),
        "max_seqlen_q": 3,
        "max_seqlen_k": 4,
    }


def _good_backward() -> dict[str, Any]:
    good = _good()
    out = torch.ones(5, 4, 8)
    return {"grad_out": out, **good, "out": out, "lse": torch.ones(4, 5)}


def _ends(*ends: int) -> torch.Tensor:
    return torch.tensor(ends, dtype=torch.int32)


_REFUSED: tuple[tuple[str, str, type[Exception], Mapping[str, Callable[[], Any]]], ...] = (
    (
        "q of four dimensions",
        "'q' must have 3 dim",
        ValueError,
        {"q": lambda: torch.ones(1, 5, 4, 8)},
    ),
    (
        "k of other columns",
        "'k' must have size 8 for D",
        ValueError,
        {"k": lambda: torch.ones(7, 2, 9)},
    ),
    (
        "v of other rows",
        "'v' must have size 7 for Tk",
        ValueError,
        {"v": lambda: torch.ones(6, 2, 8)},
    ),
    (
        "lengths of keys alone",
        "'cu_seqlens_k' must have size 3 for N1",
        ValueError,
        {"cu_seqlens_k": lambda: _ends(0, 7)},
    ),
    (
        "lengths in int64",
        "'cu_seqlens_q' must have dtype int32",
        TypeError,
        {"cu_seqlens_q": lambda: torch.tensor([0, 3, 5])},
    ),
    (
        "lengths that do not start with 0",
        "'cu_seqlens_q' must start with 0, got 1",
        ValueError,
        {"cu_seqlens_q": lambda: _ends(1, 3, 5)},
    ),
    (
        "lengths that fall",
        "'cu_seqlens_k' must never fall, got 2 after 3",
        ValueError,
        {"cu_seqlens_q": lambda: _ends(0, 3, 3, 5), "cu_seqlens_k": lambda: _ends(0, 3, 2, 6)},
    ),
    (
        "lengths that end early",
        "'cu_seqlens_q' must end with the number of rows, 5, got 4",
        ValueError,
        {"cu_seqlens_q": lambda: _ends(0, 3, 4)},
    ),
    (
        "lengths that end late",
        "'cu_seqlens_k' must end with the number of rows, 7, got 8",
        ValueError,
        {"cu_seqlens_k": lambda: _ends(0, 4, 8)},
    ),
    (
        "a longer sequence of queries",
        "'max_seqlen_q' must be at least the longest sequence's 3, got 2",
        ValueError,
        {"max_seqlen_q": lambda: 2},
    ),
    (
        "a longer sequence of keys",
        "'max_seqlen_k' must be at least the longest sequence's 4, got 3",
        ValueError,
        {"max_seqlen_k": lambda: 3},
    ),
    (
        "max_seqlen_q negative",
        "'max_seqlen_q' must not be negative, got -1",
        ValueError,
        {"max_seqlen_q": lambda: -1},
    ),
    (
        "heads not a multiple",
        "'q' must have a multiple of k's 3 heads",
        ValueError,
        {"k": lambda: torch.ones(7, 3, 8), "v": lambda: torch.ones(7, 3, 8)},
    ),
    (
        "slopes per key head",
        r"'alibi_slopes' must have shape \[4\] or \[2, 4\]",
        ValueError,
        {"alibi_slopes": lambda: torch.ones(2)},
    ),
    (
        "sinks in half",
        "'sinks' must have dtype float32",
        TypeError,
        {"sinks": lambda: torch.ones(4).half()},
    ),
    (
        "documents of queries alone",
        "'k_doc' must be given together",
        ValueError,
        {"q_doc": lambda: torch.zeros(5, dtype=torch.int64)},
    ),
    (
        "documents of two types",
        "'k_doc' must have dtype",
        TypeError,
        {
            "q_doc": lambda: torch.zeros(5, dtype=torch.int64),
            "k_doc": lambda: torch.zeros(7, dtype=torch.int32),
        },
    ),
    ("scale infinite", "'scale' must be finite", ValueError, {"scale": lambda: float("inf")}),
    (
        "softcap negative",
        "'softcap' must be finite and not negative",
        ValueError,
        {"softcap": lambda: -1.0},
    ),
    ("window_left", "'window_left' must be -1", ValueError, {"window_left": lambda: -2}),
    ("window_right", "'window_right' must be -1", ValueError, {"window_right": lambda: -5}),
    ("prefix_len", "'prefix_len' must not be negative", ValueError, {"prefix_len": lambda: -1}),
)


def _errors(operator: str, good: Callable[[], dict[str, Any]]) -> tuple[ErrorCase, ...]:
    def refused(
        name: str, match: str, error: type[Exception], changed: Mapping[str, Callable[[], Any]]
    ) -> ErrorCase:
        return ErrorCase(
            name=name,
            call=lambda op: op(**(good() | {n: make() for n, make in changed.items()})),
            error=error,
            match=f"{operator}: argument {match}",
        )

    return tuple(refused(*row) for row in _REFUSED)


ERRORS = _errors("attention_varlen_forward", _good)
BACKWARD_ERRORS = _errors("attention_varlen_backward", _good_backward)
