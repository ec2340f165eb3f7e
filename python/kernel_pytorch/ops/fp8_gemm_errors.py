"""The calls that ``fp8_gemm`` must refuse."""

from __future__ import annotations

from typing import Any

import torch

from kernel_pytorch.ops.spec import ErrorCase

__all__ = ["ERROR_CASES"]


def _codes(*shape: int, dtype: torch.dtype = torch.float8_e4m3fn) -> torch.Tensor:
    return torch.ones(shape).to(dtype)


def _refused(
    name: str, match: str, error: type[Exception] = ValueError, **changed: Any
) -> ErrorCase:
    """A good call with ``changed`` arguments; M = 3, N = 260, K = 200."""

    def call(op: Any) -> Any:
        given = {
            "a": _codes(3, 200),
            "b": _codes(260, 200),
            "scale_a": torch.ones(()),
            "scale_b": torch.ones(()),
            **changed,
        }
        return op(**given)

    return ErrorCase(name=name, call=call, error=error, match=f"fp8_gemm: argument {match}")


_A_SHAPES = r"'scale_a' must have one of the shapes \[\], \[3\], \[3, 2\], got shape"
_B_SHAPES = r"'scale_b' must have one of the shapes \[\], \[260\], \[3, 2\], got shape"

ERROR_CASES = (
    _refused("other inner size", "'b' must have size 200 for K", b=_codes(260, 199)),
    _refused("a of one dimension", "'a' must have 2 dimensions", a=_codes(200)),
    _refused("a of three dimensions", "'a' must have 2 dimensions", a=_codes(1, 3, 200)),
    _refused("b of one dimension", "'b' must have 2 dimensions", b=_codes(200)),
    _refused("a in bfloat16", "'a' must have dtype", TypeError, a=torch.ones(3, 200).bfloat16()),
    _refused("b in bfloat16", "'b' must have dtype", TypeError, b=torch.ones(260, 200).bfloat16()),
    _refused(
        "b of codes as integers",
        "'b' must have dtype float8_e4m3fn or float8_e5m2, got uint8",
        TypeError,
        b=_codes(260, 200).view(torch.uint8),
    ),
    _refused(
        "fnuz codes",
        "'a' must have dtype float8_e4m3fn or float8_e5m2, got float8_e4m3fnuz",
        TypeError,
        a=_codes(3, 200, dtype=torch.float8_e4m3fnuz),
    ),
    _refused("a transposed", "'a' must have a dense last dimension", a=_codes(200, 3).t()),
    _refused("b transposed", "'b' must have a dense last dimension", b=_codes(200, 260).t()),
    _refused(
        "scale_a in bfloat16",
        "'scale_a' must have dtype float32, got bfloat16",
        TypeError,
        scale_a=torch.ones(3).bfloat16(),
    ),
    _refused(
        "scale_b in float64",
        "'scale_b' must have dtype float32, got float64",
        TypeError,
        scale_b=torch.ones(260).double(),
    ),
    *(
        _refused(f"scale_a {list(shape)}", _A_SHAPES, scale_a=torch.ones(shape))
        for shape in ((1,), (2,), (260,), (3, 1), (1, 2), (3, 3), (3, 200), (1, 3, 2))
    ),
    *(
        _refused(f"scale_b {list(shape)}", _B_SHAPES, scale_b=torch.ones(shape))
        for shape in ((1,), (3,), (2, 2), (260, 2), (3, 1), (2, 3), (260, 200), (1, 3, 2))
    ),
    _refused("short bias", "'bias' must have (shape|size)", bias=torch.ones(259)),
    _refused("bias of two dimensions", "'bias' must have", bias=torch.ones(1, 260)),
    _refused(
        "bias of integers",
        "'bias' must have dtype",
        TypeError,
        bias=torch.ones(260, dtype=torch.int32),
    ),
    _refused(
        "unknown activation",
        "'activation' must be one of .*'swiglu'.*got 'softplus'",
        activation="softplus",
    ),
    _refused(
        "odd rows of a gate",
        "'b' must have an even first dimension for activation 'geglu'",
        b=_codes(261, 200),
        activation="geglu",
    ),
    _refused(
        "fp8 result",
        "'out_dtype' must be one of torch.float32, torch.float16, torch.bfloat16, got",
        out_dtype=torch.float8_e4m3fn,
    ),
    _refused("b elsewhere", "'b' must be on cpu", b=_codes(260, 200).to("meta")),
)
