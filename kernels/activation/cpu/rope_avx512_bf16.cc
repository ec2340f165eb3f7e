// rope again with the hardware's float to bfloat16 conversion.
#define KPT_SIMD_NS avx512_bf16
#include "kernels/activation/cpu/rope_rows_impl.h"
