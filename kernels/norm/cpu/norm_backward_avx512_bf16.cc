// The norms' gradients again with the hardware's float to bfloat16 conversion.
#define KPT_SIMD_NS avx512_bf16
#include "kernels/norm/cpu/norm_backward_rows_impl.h"
