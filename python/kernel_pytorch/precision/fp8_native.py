"""Import path of earlier versions for names of :mod:`kernel_pytorch.precision`."""

from kernel_pytorch.precision import (
    FP8_DTYPES_AVAILABLE,
    FP8_NATIVE_AVAILABLE,
    FP8_SCALED_MM_AVAILABLE,
    FP8Dtype,
    FP8InferenceEngine,
    FP8QuantizedTensor,
    FP8TensorSpec,
    NativeFP8Linear,
    benchmark_fp8_layer,
    compute_fp8_scale,
    convert_model_to_native_fp8,
    dequantize_from_fp8,
    get_fp8_dtype,
    get_fp8_info,
    is_fp8_available,
    quantize_to_fp8,
)

__all__ = [
    "FP8_DTYPES_AVAILABLE",
    "FP8_NATIVE_AVAILABLE",
    "FP8_SCALED_MM_AVAILABLE",
    "FP8Dtype",
    "FP8InferenceEngine",
    "FP8QuantizedTensor",
    "FP8TensorSpec",
    "NativeFP8Linear",
    "benchmark_fp8_layer",
    "compute_fp8_scale",
    "convert_model_to_native_fp8",
    "dequantize_from_fp8",
    "get_fp8_dtype",
    "get_fp8_info",
    "is_fp8_available",
    "quantize_to_fp8",
]
