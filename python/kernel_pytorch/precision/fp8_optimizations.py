"""Import path of earlier versions for names of :mod:`kernel_pytorch.precision`."""

from kernel_pytorch.precision import (
    FP8LinearLayer,
    FP8LossScaler,
    FP8Optimizer,
    convert_model_to_fp8,
    create_fp8_optimizer,
    estimate_fp8_speedup,
)

__all__ = [
    "FP8LinearLayer",
    "FP8LossScaler",
    "FP8Optimizer",
    "convert_model_to_fp8",
    "create_fp8_optimizer",
    "estimate_fp8_speedup",
]
