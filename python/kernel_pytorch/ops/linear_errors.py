"""The calls that ``linear_act_backward`` must refuse, beside those that follow from its dims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kernel_pytorch.ops.spec import ErrorCase

__all__ = ["backward_errors"]

_OP = "linear_act_backward"


def _refused(
    name: str, error: type[Exception], match: str, activation: str = "none", **changed: Any
) -> ErrorCase:
    """A call with ``changed`` (made when it is called) in place of good tensors."""

    def call(op: Callable[..., Any]) -> Any:
        tensors = {
            "grad_out": torch.ones(2, 4),
            "x": torch.ones(2, 3),
            "weight": torch.ones(4, 3),
            "bias": torch.ones(4),
            **{k: make() for k, make in changed.items()},
        }
        return op(*tensors.values(), activation)

    return ErrorCase(name=name, call=call, error=error, match=f"{_OP}: argument {match}")


def backward_errors() -> tuple[ErrorCase, ...]:
    """The refused calls."""
    return (
        _refused(
            "gradient of another width",
            ValueError,
            r"'grad_out' must have shape \[2, 4\] like the output of linear_act, got .*\[2, 5\]",
            grad_out=lambda: torch.ones(2, 5),
        ),
        _refused(
            "gradient of more rows",
            ValueError,
            r"'grad_out' must have shape \[2, 4\]",
            grad_out=lambda: torch.ones(3, 4),
        ),
        _refused(
            "gradient of another rank",
            ValueError,
            r"'grad_out' must have shape \[2, 4\]",
            grad_out=lambda: torch.ones(1, 2, 4),
        ),
        _refused(
            "gradient as wide as both gated halves",
            ValueError,
            r"'grad_out' must have shape \[2, 2\]",
            activation="swiglu",
        ),
        _refused(
            "odd rows of a gate",
            ValueError,
            "'weight' must have an even first dimension",
            activation="geglu",
            weight=lambda: torch.ones(5, 3),
            bias=lambda: None,
        ),
        _refused(
            "short bias", ValueError, "'bias' must have (shape|size)", bias=lambda: torch.ones(3)
        ),
        _refused(
            "other inner size",
            ValueError,
            "'weight' must have size 3 for K",
            weight=lambda: torch.ones(4, 5),
        ),
        _refused(
            "gradient of another dtype",
            TypeError,
            "'x' must have dtype bfloat16, got float32",
            grad_out=lambda: torch.ones(2, 4).bfloat16(),
        ),
        _refused(
            "gradient transposed",
            ValueError,
            "'grad_out' must have a dense last dimension",
            grad_out=lambda: torch.ones(4, 2).t(),
        ),
    )
