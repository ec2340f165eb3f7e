// Dequantization again with the hardware's float to bfloat16 conversion.
#define KPT_SIMD_NS avx512_bf16
#include "kernels/quant/cpu/dequantize_rows_impl.h"
