"""Validation of models, configurations, hardware and kernels: every check runs and can fail."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kernel_pytorch.core.config import KernelPyTorchConfig, PrecisionConfig, ValidationConfig
from kernel_pytorch.validation import suitability
from kernel_pytorch.validation.configuration import configuration_checks
from kernel_pytorch.validation.hardware import hardware_checks
from kernel_pytorch.validation.kernels import kernel_checks
from kernel_pytorch.validation.model import export_checks, model_checks
from kernel_pytorch.validation.precision import precision_checks
from kernel_pytorch.validation.report import (
    ValidationLevel,
    ValidationReport,
    ValidationResult,
    ValidationSummary,
    run_checks,
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


class UnifiedValidator:
    """Every kind of validation, each returning a :class:`ValidationSummary`.

    A check that raises has failed; those of absent hardware are skipped and never counted as
    passed. TypeError and ValueError are raised for arguments that are of another kind altogether.
    """

    def __init__(self, config: ValidationConfig | None = None) -> None:
        """``config``: bounds for accuracy and memory."""
        self.config = ValidationConfig() if config is None else config

    def validate_model(
        self,
        model: nn.Module,
        input_shape: tuple[int, ...],
        level: ValidationLevel = ValidationLevel.STANDARD,
    ) -> ValidationSummary:
        """Runs the model in evaluation mode on random input of this shape (token ids where its
        first parameter is an embedding's); it is left as it was.

        MINIMAL: weights and outputs are finite. STANDARD: calls repeat, rows do not depend on each
        other, the state dict is complete. STRICT: memory, gradients, export. COMPREHENSIVE: the
        outputs against the model in float64.
        """
        _expect_module("validate_model", model)
        shape = tuple(input_shape)
        if not all(isinstance(n, int) and n > 0 for n in shape):
            raise ValueError(
                f"validate_model: argument 'input_shape' must hold positive sizes, got {shape}"
            )
        return run_checks(model_checks(model, shape, self.config), level)

    def validate_export(
        self,
        model: nn.Module,
        input_shape: tuple[int, ...],
        level: ValidationLevel = ValidationLevel.STANDARD,
    ) -> ValidationSummary:
        """Whether the model can be exported, written and read back with the same results."""
        _expect_module("validate_export", model)
        return run_checks(export_checks(model, tuple(input_shape)), level)

    def validate_configuration(self, config: KernelPyTorchConfig) -> ValidationSummary:
        """Values against each other and against this machine."""
        return run_checks(configuration_checks(config))

    def validate_hardware_compatibility(self, device: torch.device | str) -> ValidationSummary:
        """Whether the device is there, computes right, and has kernels."""
        return run_checks(hardware_checks(torch.device(device)))

    def validate_precision_allocation(
        self, model: nn.Module, precision_config: PrecisionConfig
    ) -> ValidationSummary:
        """The model's weights converted to the configured format: range, error, size."""
        _expect_module("validate_precision_allocation", model)
        return run_checks(precision_checks(model, precision_config))

    def validate_custom_kernels(self, config: KernelPyTorchConfig) -> ValidationSummary:
        """Every operator's kernel against float64; one that falls back is a warning."""
        return run_checks(kernel_checks(config))

    def validate_nvidia_compatibility(self, config: KernelPyTorchConfig) -> ValidationSummary:
        """``config.hardware.nvidia`` against its architecture and this machine."""
        return self._configuration("nvidia", config)

    def validate_amd_compatibility(self, config: KernelPyTorchConfig) -> ValidationSummary:
        """``config.hardware.amd`` against its architecture and this machine."""
        return self._configuration("amd", config)

    def validate_intel_compatibility(self, config: KernelPyTorchConfig) -> ValidationSummary:
        """``config.hardware.intel`` against its architecture and this machine."""
        return self._configuration("intel", config)

    def validate_tpu_compatibility(self, config: KernelPyTorchConfig) -> ValidationSummary:
        """``config.hardware.tpu`` against its generation and this machine."""
        return self._configuration("tpu", config)

    def validate_nvidia_model_optimization(
        self, model: nn.Module, nvidia_config: Any, sample_inputs: torch.Tensor | None = None
    ) -> ValidationSummary:
        """The model's sizes, dtypes and graph against NVIDIA's tensor cores."""
        return self._model("nvidia", model, nvidia_config, sample_inputs)

    def validate_amd_model_optimization(
        self, model: nn.Module, amd_config: Any, sample_inputs: torch.Tensor | None = None
    ) -> ValidationSummary:
        """The model's sizes, dtypes and graph against AMD's matrix cores."""
        return self._model("amd", model, amd_config, sample_inputs)

    def validate_intel_model_optimization(
        self, model: nn.Module, intel_config: Any, sample_inputs: torch.Tensor | None = None
    ) -> ValidationSummary:
        """The model's sizes, dtypes and graph against Intel's XMX and AMX."""
        return self._model("intel", model, intel_config, sample_inputs)

    def validate_tpu_model_optimization(
        self, model: nn.Module, tpu_config: Any, sample_inputs: torch.Tensor | None = None
    ) -> ValidationSummary:
        """The model's sizes, dtypes and graph against a TPU's matrix unit."""
        return self._model("tpu", model, tpu_config, sample_inputs)

    @staticmethod
    def _configuration(section: str, config: KernelPyTorchConfig) -> ValidationSummary:
        vendor = suitability.VENDORS[section]
        return run_checks(suitability.configuration_checks(vendor, config))

    @staticmethod
    def _model(
        section: str, model: nn.Module, config: Any, sample_inputs: torch.Tensor | None
    ) -> ValidationSummary:
        _expect_module(f"validate_{section}_model_optimization", model)
        vendor = suitability.VENDORS[section]
        # The whole configuration may be given in place of its section.
        own = config.hardware if isinstance(config, KernelPyTorchConfig) else None
        chosen = config if own is None else getattr(own, section)
        return run_checks(suitability.model_checks(vendor, model, chosen, sample_inputs))


def _expect_module(what: str, model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"{what}: argument 'model' must be a torch.nn.Module, got {type(model).__name__}"
        )


def validate_model(
    model: nn.Module, input_shape: tuple[int, ...], **kwargs: Any
) -> ValidationSummary:
    """:meth:`UnifiedValidator.validate_model`."""
    return UnifiedValidator().validate_model(model, input_shape, **kwargs)


def validate_configuration(config: KernelPyTorchConfig) -> ValidationSummary:
    """:meth:`UnifiedValidator.validate_configuration`."""
    return UnifiedValidator().validate_configuration(config)


def validate_hardware(device: torch.device | str) -> ValidationSummary:
    """:meth:`UnifiedValidator.validate_hardware_compatibility`."""
    return UnifiedValidator().validate_hardware_compatibility(device)


def validate_tpu_configuration(config: KernelPyTorchConfig) -> ValidationSummary:
    """:meth:`UnifiedValidator.validate_tpu_compatibility`."""
    return UnifiedValidator().validate_tpu_compatibility(config)


def validate_tpu_model(
    model: nn.Module, tpu_config: Any, sample_inputs: torch.Tensor | None = None
) -> ValidationSummary:
    """:meth:`UnifiedValidator.validate_tpu_model_optimization`."""
    return UnifiedValidator().validate_tpu_model_optimization(model, tpu_config, sample_inputs)


def validate_nvidia_configuration(config: KernelPyTorchConfig) -> ValidationSummary:
    """:meth:`UnifiedValidator.validate_nvidia_compatibility`."""
    return UnifiedValidator().validate_nvidia_compatibility(config)


def validate_nvidia_model(
    model: nn.Module, nvidia_config: Any, sample_inputs: torch.Tensor | None = None
) -> ValidationSummary:
    """:meth:`UnifiedValidator.validate_nvidia_model_optimization`."""
    return UnifiedValidator().validate_nvidia_model_optimization(
        model, nvidia_config, sample_inputs
    )


def validate_custom_kernels(config: KernelPyTorchConfig) -> ValidationSummary:
    """:meth:`UnifiedValidator.validate_custom_kernels`."""
    return UnifiedValidator().validate_custom_kernels(config)
