"""The calls that ``packed_linear`` must refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kernel_pytorch.ops.packing import pack, quantize
from kernel_pytorch.ops.spec import ErrorCase

__all__ = ["ERROR_CASES"]


def _packed(format: str = "bf16", n: int = 4, k: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    stored = quantize(torch.ones(n, k), format)
    return pack(stored, format), stored.scale


def _refused(
    name: str,
    error: type[Exception],
    match: str,
    *,
    x: Callable[[], torch.Tensor] = lambda: torch.ones(2, 3),
    made_as: tuple[str, int, int] = ("bf16", 4, 3),
    packed: Callable[[torch.Tensor], torch.Tensor] = lambda t: t,
    scale: Callable[[torch.Tensor], torch.Tensor] = lambda t: t,
    **options: Any,
) -> ErrorCase:
    """A call with a weight packed as ``made_as``, one thing in it spoiled."""

    def call(op: Callable[..., Any]) -> Any:
        stored, factors = _packed(*made_as)
        given = {"out_features": made_as[1], "format": made_as[0], **options}
        return op(x(), packed(stored), scale(factors), **given)

    return ErrorCase(name=name, call=call, error=error, match=f"packed_linear: {match}")


ERROR_CASES = (
    _refused(
        "unknown format", ValueError, "argument 'format' must be one of .*'int3'", format="int3"
    ),
    _refused(
        "unknown activation",
        ValueError,
        "argument 'activation' must be one of .*'swiglu'.*got 'softplus'",
        activation="softplus",
    ),
    _refused(
        "unknown compute",
        ValueError,
        "argument 'compute' must be one of 'weight_only', 'int8', got 'int4'",
        compute="int4",
    ),
    _refused(
        "x without dimensions",
        ValueError,
        "argument 'x' must have at least 1 dimensions",
        x=lambda: torch.tensor(1.0),
    ),
    _refused(
        "x of integers",
        TypeError,
        "argument 'x' must have dtype .*got int32",
        x=lambda: torch.ones(2, 3, dtype=torch.int32),
    ),
    _refused(
        "x in fp8",
        TypeError,
        "argument 'x' must have dtype .*got float8_e4m3fn",
        x=lambda: torch.ones(2, 3).to(torch.float8_e4m3fn),
    ),
    _refused(
        "x too wide",
        ValueError,
        r"argument 'packed' must have shape \[1, 4096\]",
        x=lambda: torch.ones(2, 33),
    ),
    _refused(
        "x too wide for int8 compute",
        ValueError,
        "argument 'x' must have at most 32768 features",
        x=lambda: torch.ones(1, 32832),
        made_as=("int8", 1, 32832),
        compute="int8",
    ),
    _refused(
        "x not dense",
        ValueError,
        "argument 'x' must",
        x=lambda: torch.ones(3, 2).t(),
    ),
    _refused(
        "int8 compute of bf16 weights",
        ValueError,
        "argument 'format' must be 'int8' or 'int4' for compute 'int8', got 'bf16'",
        compute="int8",
    ),
    _refused(
        "int8 compute of fp8 weights",
        ValueError,
        "argument 'format' must be 'int8' or 'int4' for compute 'int8', got 'fp8_e4m3'",
        made_as=("fp8_e4m3", 4, 3),
        compute="int8",
    ),
    _refused(
        "packed in another format",
        TypeError,
        "argument 'packed' must have dtype int8 for format 'int8', got bfloat16",
        format="int8",
    ),
    _refused(
        "fp8 packed called int8",
        TypeError,
        "argument 'packed' must have dtype int8 for format 'int8', got uint8",
        made_as=("fp8_e4m3", 4, 3),
        format="int8",
    ),
    _refused(
        "packed of no known dtype",
        TypeError,
        "argument 'packed' must have dtype .*got int16",
        packed=lambda t: t.view(torch.int16),
    ),
    _refused(
        "the weight itself",
        ValueError,
        r"argument 'packed' must have shape \[1, 2048\]",
        packed=lambda t: torch.ones(4, 3).bfloat16(),
    ),
    _refused(
        "packed flattened",
        ValueError,
        "argument 'packed' must have 2 dimensions",
        packed=lambda t: t.view(-1),
    ),
    _refused(
        "a panel missing",
        ValueError,
        r"argument 'packed' must have shape \[2, 2048\]",
        made_as=("bf16", 65, 3),
        packed=lambda t: t[:1],
    ),
    _refused(
        "a panel too many",
        ValueError,
        r"argument 'packed' must have shape \[1, 2048\]",
        packed=lambda t: t.repeat(2, 1),
    ),
    _refused(
        "int8 without its sums",
        ValueError,
        r"argument 'packed' must have shape \[1, 4352\]",
        made_as=("int8", 4, 3),
        packed=lambda t: t[:, :4096].contiguous(),
    ),
    _refused(
        "other out_features",
        ValueError,
        "argument 'out_features' must be 4 like the size of 'scale', got 5",
        out_features=5,
    ),
    _refused(
        "negative out_features",
        ValueError,
        "argument 'out_features' must be 4 like the size of 'scale', got -4",
        out_features=-4,
    ),
    _refused(
        "odd out_features of a gate",
        ValueError,
        "argument 'out_features' must be even for activation 'geglu', got 5",
        made_as=("bf16", 5, 3),
        activation="geglu",
    ),
    _refused(
        "scale of another dtype",
        TypeError,
        "argument 'scale' must have dtype float32, got bfloat16",
        scale=lambda t: t.bfloat16(),
    ),
    _refused(
        "one scale for all",
        ValueError,
        "argument 'scale' must have at least 1 dimensions",
        scale=lambda t: torch.tensor(1.0),
    ),
    _refused(
        "scale as a column",
        ValueError,
        r"argument 'scale' must have shape \[N\] for format 'bf16', got shape \[4, 1\]",
        scale=lambda t: t[:, None],
    ),
    _refused(
        "short bias",
        ValueError,
        "argument 'bias' must have size 4 for N",
        bias=torch.ones(3),
    ),
    _refused(
        "bias of another dtype",
        TypeError,
        "argument 'bias' must have dtype float32, got bfloat16",
        bias=torch.ones(4).bfloat16(),
    ),
    _refused(
        "packed on another device",
        ValueError,
        "argument 'packed' must be on cpu",
        packed=lambda t: t.to("meta"),
    ),
    _refused(
        "groups",
        ValueError,
        "argument 'group_size' must be -1 .*got 64",
        group_size=64,
    ),
    _refused(
        "groups of another size",
        ValueError,
        "argument 'group_size' must be -1 .*32, 64 or 128.*got 16",
        made_as=("int4", 4, 3),
        group_size=16,
    ),
    _refused(
        "int4 with a scale per output",
        ValueError,
        r"argument 'scale' must have shape \[1, N\] for format 'int4', got shape \[4\]",
        made_as=("int4", 4, 3),
        scale=lambda t: t[0],
    ),
    _refused(
        "int4 with the scales of other groups",
        ValueError,
        r"argument 'scale' must have shape \[3, N\] for format 'int4', got shape \[1, 4\]",
        x=lambda: torch.ones(2, 70),
        made_as=("int4", 4, 70),
        group_size=32,
    ),
    _refused(
        "int4 with the zero points of other groups",
        ValueError,
        r"argument 'packed' must have shape \[1, 4096\] or \[1, 4160\]",
        made_as=("int4", 4, 3),
        packed=lambda t: torch.cat([t, t[:, :128]], dim=1),
    ),
)
