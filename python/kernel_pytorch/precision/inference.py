"""``FP8InferenceEngine``: a model converted, calibrated and measured."""

from __future__ import annotations

import copy
import statistics
import time
from typing import Any

import torch
from torch import nn

from kernel_pytorch.precision.convert import (
    QuantizationReport,
    batches_of,
    call,
    convert_model_to_native_fp8,
    quantization_report,
    stored_bytes,
)
from kernel_pytorch.precision.linear import NativeFP8Linear
from kernel_pytorch.precision.numbers import FP8Dtype
from kernel_pytorch.precision.packed import PackedLinear

__all__ = ["FP8InferenceEngine", "benchmark_fp8_layer"]


class FP8InferenceEngine:
    """``model``, for inference with 8-bit (or 4-bit) weights.

    :meth:`prepare` converts it in place. With ``calibration_data`` activations are scaled
    statically and every layer's sensitivity, the error and the speed are measured; ``options`` are
    those of :func:`convert_model_to_native_fp8` (``activation_scaling``, ``max_error``,
    ``module_filter``, ...).
    """

    def __init__(
        self,
        model: nn.Module,
        weight_format: FP8Dtype | str = FP8Dtype.E4M3,
        activation_format: FP8Dtype = FP8Dtype.E4M3,
        calibration_data: Any = None,
        **options: Any,
    ) -> None:
        self.model = model
        self.weight_format, self.activation_format = weight_format, activation_format
        self.calibration_data = calibration_data
        integers = weight_format in ("int8", "int4")
        scaling = "none" if calibration_data is None or integers else "static"
        self._options = {"activation_scaling": scaling, **options}
        self._prepared = False
        self._fp8_layers: dict[str, nn.Module] = {}
        self._fp32_bytes = 0
        self._speed: dict[str, float] = {}

    def prepare(self, device: Any = None) -> FP8InferenceEngine:
        """Convert the model (on ``device``); does nothing the second time. Returns the engine."""
        if self._prepared:
            return self
        model = self.model.eval()
        if device is not None:
            model.to(device)
        original = None if self.calibration_data is None else copy.deepcopy(model)
        self.model = convert_model_to_native_fp8(
            model,
            self.weight_format,
            self.activation_format,
            inplace=True,
            calibration_data=self.calibration_data,
            trainable=False,
            **self._options,
        )
        kinds = (NativeFP8Linear, PackedLinear)
        self._fp8_layers = {n: m for n, m in self.model.named_modules() if isinstance(m, kinds)}
        for layer in self._fp8_layers.values():
            biases = 0 if layer.bias is None else layer.out_features
            self._fp32_bytes += 4 * (layer.in_features * layer.out_features + biases)
        self._prepared = True
        if original is not None:
            self._speed = _compared(original, self.model, batches_of(self.calibration_data)[0])
        return self

    def infer(self, inputs: Any) -> Any:
        """The model's output without gradients. RuntimeError before :meth:`prepare`."""
        if not self._prepared:
            raise RuntimeError("FP8InferenceEngine: call prepare() before infer()")
        with torch.inference_mode():
            return call(self.model, inputs)

    def get_memory_savings(self) -> dict[str, Any]:
        """Of the converted layers: ``fp8_memory_mb``, measured as the storage they hold, beside
        ``fp32_memory_mb``, what as many float32 numbers take; ``savings_ratio`` (how many times
        smaller), ``savings_percent``; ``model_memory_mb`` of the whole model, ``before`` too."""
        if not self._prepared:
            raise RuntimeError("FP8InferenceEngine: call prepare() before get_memory_savings()")
        held = stored_bytes(self._fp8_layers.values())
        report = self.report
        return {
            "fp8_memory_mb": held / 1e6,
            "fp32_memory_mb": self._fp32_bytes / 1e6,
            "savings_ratio": self._fp32_bytes / max(1, held),
            "savings_percent": 100.0 * (1.0 - held / max(1, self._fp32_bytes)),
            "model_memory_mb": report.bytes_after / 1e6,
            "model_memory_mb_before": report.bytes_before / 1e6,
        }

    def get_layer_info(self) -> dict[str, dict[str, Any]]:
        """Scales and formats of each converted layer."""
        found = {}
        for name, layer in self._fp8_layers.items():
            if isinstance(layer, NativeFP8Linear):
                found[name] = layer.get_fp8_info()
            else:
                found[name] = {
                    "weight_scale": layer.scale,
                    "activation_scale": None,
                    "weight_format": layer.format,
                }
        return found

    def get_speed(self) -> dict[str, float]:
        """``original_ms``, ``converted_ms`` and ``speedup`` on the first calibration batch, medians
        of interleaved calls; empty without calibration data."""
        return dict(self._speed)

    @property
    def report(self) -> QuantizationReport:
        """What the conversion did, layer by layer."""
        return quantization_report(self.model)


def _compared(original: nn.Module, converted: nn.Module, batch: Any) -> dict[str, float]:
    times: dict[str, list[float]] = {"original": [], "converted": []}
    models = {"original": original, "converted": converted}
    with torch.inference_mode():
        for round_ in range(6):
            for name, model in models.items():
                start = time.perf_counter()
                call(model, batch)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                if round_:  # the first one warms up
                    times[name].append(time.perf_counter() - start)
    before, after = (statistics.median(times[name]) for name in models)
    ratio = statistics.median(b / a for b, a in zip(times["original"], times["converted"]))
    return {"original_ms": before * 1e3, "converted_ms": after * 1e3, "speedup": ratio}


def benchmark_fp8_layer(
    in_features: int = 1024,
    out_features: int = 1024,
    batch_size: int = 32,
    num_iterations: int = 100,
    device: Any = None,
    dtype: torch.dtype = torch.bfloat16,
    **options: Any,
) -> dict[str, float]:
    """``NativeFP8Linear`` (``options`` are its), frozen, beside ``nn.Linear`` in ``dtype``.

    Returns medians of interleaved calls, ``fp8_time_ms`` and ``standard_time_ms``, ``speedup`` (the
    median of their ratios), and the bytes of both layers. A device that works asynchronously is
    waited for. Caches: calls go round as many copies of both as exceed 256 MB.
    """
    size = in_features * out_features
    copies = max(1, min(16, -(-(256 << 20) // max(1, size))))
    plain = [
        nn.Linear(in_features, out_features, device=device, dtype=dtype) for _ in range(copies)
    ]
    fp8 = [NativeFP8Linear.from_linear(layer, **options).freeze().eval() for layer in plain]
    x = torch.randn(batch_size, in_features, device=device, dtype=dtype)
    times: dict[str, list[float]] = {"fp8": [], "standard": []}
    with torch.inference_mode():
        for i in range(num_iterations + 1):
            for name, layers in (("fp8", fp8), ("standard", plain)):
                start = time.perf_counter()
                layers[i % copies](x)
                if x.is_cuda:
                    torch.cuda.synchronize()
                if i:  # the first one warms up
                    times[name].append(time.perf_counter() - start)
    ratios = [s / f for s, f in zip(times["standard"], times["fp8"])]
    return {
        "fp8_time_ms": statistics.median(times["fp8"]) * 1e3,
        "standard_time_ms": statistics.median(times["standard"]) * 1e3,
        "speedup": statistics.median(ratios),
        "fp8_bytes": float(stored_bytes(fp8[:1])),
        "standard_bytes": float(stored_bytes(plain[:1])),
    }
