"""Import path of earlier versions for names of :mod:`kernel_pytorch.precision`."""

from kernel_pytorch.precision import (
    FP8Config,
    FP8Format,
    FP8TrainingEngine,
    create_fp8_trainer,
    validate_fp8_setup,
)

__all__ = [
    "FP8Config",
    "FP8Format",
    "FP8TrainingEngine",
    "create_fp8_trainer",
    "validate_fp8_setup",
]
