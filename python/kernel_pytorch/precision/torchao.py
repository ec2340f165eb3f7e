"""torchao's ``quantize_`` with our layers, where torchao is installed."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kernel_pytorch.precision.convert import convert_model_to_native_fp8
from kernel_pytorch.precision.numbers import FP8Dtype

__all__ = ["torchao_config"]


def torchao_config(weight_format: FP8Dtype | str = FP8Dtype.E4M3, **options: Any) -> Any:
    """A configuration for ``torchao.quantization.quantize_(model, config)``.

    Arguments are those of :func:`convert_model_to_native_fp8`, for each layer that torchao chooses.
    ImportError where torchao is not installed.
    """
    return _config_class()(weight_format=weight_format, options=options)


@functools.cache
def _config_class() -> Any:
    """The configuration's class, its handler registered."""
    from torchao.core.config import AOBaseConfig
    from torchao.quantization.transform_module import register_quantize_module_handler

    @dataclass
    class KernelPyTorchConfig(AOBaseConfig):
        weight_format: FP8Dtype | str
        options: dict[str, Any]

    @register_quantize_module_handler(KernelPyTorchConfig)
    def _quantized(module: nn.Module, config: KernelPyTorchConfig) -> nn.Module:
        with torch.no_grad():
            return convert_model_to_native_fp8(
                module, config.weight_format, inplace=True, trainable=False, **config.options
            )

    return KernelPyTorchConfig
