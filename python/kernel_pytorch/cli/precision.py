"""The names of the precision policies, for options: the policies themselves import torch."""

from __future__ import annotations

import enum

__all__ = ["Precision"]


class Precision(str, enum.Enum):
    """Policies of :func:`kernel_pytorch.optimize`."""

    KEEP = "keep"
    BF16 = "bf16"
    INT8 = "int8"
    INT4 = "int4"
    FP8 = "fp8"
