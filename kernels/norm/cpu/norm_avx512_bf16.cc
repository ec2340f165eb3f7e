// The norms again with the hardware's float to bfloat16 conversion: one instruction for 32 elements
// in place of a dozen.
#define KPT_SIMD_NS avx512_bf16
#include "kernels/norm/cpu/norm_rows_impl.h"
