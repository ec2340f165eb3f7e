"""Validation of models, configurations, hardware, kernels, and of a whole machine."""

from kernel_pytorch.validation.unified_validator import (
    UnifiedValidator,
    ValidationLevel,
    ValidationReport,
    ValidationResult,
    ValidationSummary,
    validate_configuration,
    validate_custom_kernels,
    validate_hardware,
    validate_model,
    validate_nvidia_configuration,
    validate_nvidia_model,
    validate_tpu_configuration,
    validate_tpu_model,
)

__all__ = [
    "UnifiedValidator",
    "ValidationLevel",
    "ValidationReport",
    "ValidationResult",
    "ValidationSummary",
    "validate_configuration",
    "validate_custom_kernels",
    "validate_hardware",
    "validate_model",
    "validate_nvidia_configuration",
    "validate_nvidia_model",
    "validate_tpu_configuration",
    "validate_tpu_model",
]
