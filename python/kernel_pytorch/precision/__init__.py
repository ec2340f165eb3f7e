"""FP8, INT8 and INT4: numbers, linear layers, conversion for inference, training.

>>> model = convert_model_to_native_fp8(model, calibration_data=batch, max_error=0.02)
>>> print(quantization_report(model))
>>> engine = create_fp8_trainer(model, scaling_strategy="rowwise")
"""

from kernel_pytorch import backends
from kernel_pytorch.precision.convert import (
    LayerReport,
    QuantizationReport,
    convert_model_to_native_fp8,
    quantization_report,
    stored_bytes,
)
from kernel_pytorch.precision.inference import FP8InferenceEngine, benchmark_fp8_layer
from kernel_pytorch.precision.linear import NativeFP8Linear
from kernel_pytorch.precision.multihead import ConvertedMultiheadAttention
from kernel_pytorch.precision.numbers import (
    FP8_DTYPES_AVAILABLE,
    FP8_NATIVE_AVAILABLE,
    FP8_SCALED_MM_AVAILABLE,
    FP8Dtype,
    FP8QuantizedTensor,
    FP8TensorSpec,
    compute_fp8_scale,
    dequantize_from_fp8,
    get_fp8_dtype,
    get_fp8_info,
    is_fp8_available,
    quantize_to_fp8,
)
from kernel_pytorch.precision.packed import PackedLinear
from kernel_pytorch.precision.recipes import RECIPES, FP8Config, FP8Format, Recipe
from kernel_pytorch.precision.torchao import torchao_config
from kernel_pytorch.precision.training import (
    FP8LossScaler,
    FP8Optimizer,
    FP8TrainingEngine,
    convert_model_to_fp8,
    create_fp8_optimizer,
    create_fp8_trainer,
    estimate_fp8_speedup,
    validate_fp8_setup,
)
from kernel_pytorch.precision.training_linear import FP8LinearLayer

__all__ = [
    "FP8_DTYPES_AVAILABLE",
    "FP8_NATIVE_AVAILABLE",
    "FP8_SCALED_MM_AVAILABLE",
    "RECIPES",
    "ConvertedMultiheadAttention",
    "FP8Config",
    "FP8Dtype",
    "FP8Format",
    "FP8InferenceEngine",
    "FP8LinearLayer",
    "FP8LossScaler",
    "FP8Optimizer",
    "FP8QuantizedTensor",
    "FP8TensorSpec",
    "FP8TrainingEngine",
    "LayerReport",
    "NativeFP8Linear",
    "PackedLinear",
    "QuantizationReport",
    "Recipe",
    "benchmark_fp8_layer",
    "compute_fp8_scale",
    "convert_model_to_fp8",
    "convert_model_to_native_fp8",
    "create_fp8_optimizer",
    "create_fp8_trainer",
    "dequantize_from_fp8",
    "estimate_fp8_speedup",
    "get_fp8_dtype",
    "get_fp8_info",
    "is_fp8_available",
    "quantization_report",
    "quantize_to_fp8",
    "stored_bytes",
    "torchao_config",
    "validate_fp8_setup",
]

assert backends  # imported for what it registers: torch.ops.kpt
