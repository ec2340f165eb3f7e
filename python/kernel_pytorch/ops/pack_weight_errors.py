"""The calls that ``pack_weight`` must refuse."""

from __future__ import annotations

import torch

from kernel_pytorch.ops.spec import ErrorCase

__all__ = ["ERROR_CASES"]

_WEIGHT = torch.ones(4, 3)
_SCALE = torch.ones(1, 4)
_ZEROS = torch.full((1, 4), 8, dtype=torch.uint8)

ERROR_CASES = (
    ErrorCase(
        name="unknown format",
        call=lambda op: op(_WEIGHT, "int3"),
        error=ValueError,
        match="pack_weight: argument 'format' must be one of 'bf16'.*got 'int3'",
    ),
    ErrorCase(
        name="a dtype's name for a format",
        call=lambda op: op(_WEIGHT, "bfloat16"),
        error=ValueError,
        match="pack_weight: argument 'format' must be one of .*got 'bfloat16'",
    ),
    ErrorCase(
        name="empty format",
        call=lambda op: op(_WEIGHT, ""),
        error=ValueError,
        match="pack_weight: argument 'format' must be one of .*got ''",
    ),
    ErrorCase(
        name="format in capitals",
        call=lambda op: op(_WEIGHT, "INT8"),
        error=ValueError,
        match="pack_weight: argument 'format' must be one of .*got 'INT8'",
    ),
    ErrorCase(
        name="weight without dimensions",
        call=lambda op: op(torch.tensor(1.0), "bf16"),
        error=ValueError,
        match="pack_weight: argument 'weight' must have 2 dimensions",
    ),
    ErrorCase(
        name="weight of one dimension",
        call=lambda op: op(torch.ones(4), "bf16"),
        error=ValueError,
        match="pack_weight: argument 'weight' must have 2 dimensions",
    ),
    ErrorCase(
        name="weight of three dimensions",
        call=lambda op: op(torch.ones(2, 4, 3), "int8"),
        error=ValueError,
        match="pack_weight: argument 'weight' must have 2 dimensions",
    ),
    ErrorCase(
        name="weight of integers",
        call=lambda op: op(_WEIGHT.int(), "int8"),
        error=TypeError,
        match="pack_weight: argument 'weight' must have dtype .*got int32",
    ),
    ErrorCase(
        name="weight already quantized",
        call=lambda op: op(_WEIGHT.to(torch.int8), "int8"),
        error=TypeError,
        match="pack_weight: argument 'weight' must have dtype .*got int8",
    ),
    ErrorCase(
        name="weight in fp8",
        call=lambda op: op(_WEIGHT.to(torch.float8_e4m3fn), "fp8_e4m3"),
        error=TypeError,
        match="pack_weight: argument 'weight' must have dtype .*got float8_e4m3fn",
    ),
    ErrorCase(
        name="complex weight",
        call=lambda op: op(_WEIGHT.to(torch.complex64), "bf16"),
        error=TypeError,
        match="pack_weight: argument 'weight' must have dtype .*got complex64",
    ),
    ErrorCase(
        name="sparse weight",
        call=lambda op: op(_WEIGHT.to_sparse(), "bf16"),
        error=TypeError,
        match="pack_weight: argument 'weight' must be a (strided|dense CPU) tensor",
    ),
    ErrorCase(
        name="transposed weight",
        call=lambda op: op(_WEIGHT.t(), "bf16"),
        error=ValueError,
        match="pack_weight: argument 'weight' must",
    ),
    ErrorCase(
        name="scale for bf16",
        call=lambda op: op(_WEIGHT, "bf16", torch.ones(4)),
        error=ValueError,
        match="pack_weight: argument 'scale' must be None for format 'bf16'",
    ),
    ErrorCase(
        name="scale for fp32",
        call=lambda op: op(_WEIGHT, "fp32", torch.ones(4)),
        error=ValueError,
        match="pack_weight: argument 'scale' must be None for format 'fp32'",
    ),
    ErrorCase(
        name="scale per input",
        call=lambda op: op(_WEIGHT, "int8", torch.ones(3)),
        error=ValueError,
        match="pack_weight: argument 'scale' must have size 4 for N",
    ),
    ErrorCase(
        name="one scale for all",
        call=lambda op: op(_WEIGHT, "fp8_e4m3", torch.tensor(0.5)),
        error=ValueError,
        match="pack_weight: argument 'scale' must have at least 1 dimensions",
    ),
    ErrorCase(
        name="scale as a column",
        call=lambda op: op(_WEIGHT, "int8", torch.ones(4, 1)),
        error=ValueError,
        match="pack_weight: argument 'scale' must have size 4 for N",
    ),
    ErrorCase(
        name="scale in bfloat16",
        call=lambda op: op(_WEIGHT, "int8", torch.ones(4).bfloat16()),
        error=TypeError,
        match="pack_weight: argument 'scale' must have dtype float32, got bfloat16",
    ),
    ErrorCase(
        name="scale in float64",
        call=lambda op: op(_WEIGHT, "int8", torch.ones(4).double()),
        error=TypeError,
        match="pack_weight: argument 'scale' must have dtype float32, got float64",
    ),
    ErrorCase(
        name="scale on another device",
        call=lambda op: op(_WEIGHT, "int8", torch.ones(4, device="meta")),
        error=ValueError,
        match="pack_weight: argument 'scale' must be on cpu",
    ),
    ErrorCase(
        name="groups",
        call=lambda op: op(_WEIGHT, "int8", None, 32),
        error=ValueError,
        match="pack_weight: argument 'group_size' must be -1 .*got 32",
    ),
    ErrorCase(
        name="groups of nothing",
        call=lambda op: op(_WEIGHT, "fp8_e4m3", None, 0),
        error=ValueError,
        match="pack_weight: argument 'group_size' must be -1 .*got 0",
    ),
    ErrorCase(
        name="groups of another size",
        call=lambda op: op(_WEIGHT, "int4", None, 48),
        error=ValueError,
        match=r"pack_weight: argument 'group_size' must be -1 .*32, 64 or 128.*got 48",
    ),
    ErrorCase(
        name="a scale per output for int4",
        call=lambda op: op(_WEIGHT, "int4", torch.ones(4)),
        error=ValueError,
        match=r"pack_weight: argument 'scale' must have shape \[1, 4\]",
    ),
    ErrorCase(
        name="scales by output, then group",
        call=lambda op: op(torch.ones(4, 64), "int4", torch.ones(4, 2), 32),
        error=ValueError,
        match="pack_weight: argument 'scale' must have size 4 for N",
    ),
    ErrorCase(
        name="zero points without scales",
        call=lambda op: op(_WEIGHT, "int4", zero_point=_ZEROS),
        error=ValueError,
        match="pack_weight: argument 'zero_point' must be None without 'scale'",
    ),
    ErrorCase(
        name="zero points for int8",
        call=lambda op: op(_WEIGHT, "int8", torch.ones(4), zero_point=_ZEROS),
        error=ValueError,
        match="pack_weight: argument 'zero_point' must be None for format 'int8'",
    ),
    ErrorCase(
        name="zero points of another shape",
        call=lambda op: op(_WEIGHT, "int4", _SCALE, zero_point=_ZEROS[0]),
        error=ValueError,
        match=r"pack_weight: argument 'zero_point' must have shape \[1, 4\]",
    ),
    ErrorCase(
        name="zero points in float",
        call=lambda op: op(_WEIGHT, "int4", _SCALE, zero_point=_ZEROS.float()),
        error=TypeError,
        match="pack_weight: argument 'zero_point' must have dtype uint8, got float32",
    ),
    ErrorCase(
        name="a zero point of 17",
        call=lambda op: op(_WEIGHT, "int4", _SCALE, zero_point=_ZEROS + 9),
        error=ValueError,
        match="pack_weight: argument 'zero_point' must be at most 16, got 17",
    ),
    ErrorCase(
        name="asymmetric int8",
        call=lambda op: op(_WEIGHT, "int8", symmetric=False),
        error=ValueError,
        match="pack_weight: argument 'symmetric' must be True for format 'int8'",
    ),
    ErrorCase(
        name="asymmetric with a scale",
        call=lambda op: op(_WEIGHT, "int4", _SCALE, symmetric=False),
        error=ValueError,
        match="pack_weight: argument 'symmetric' must be True for a given scale",
    ),
)
