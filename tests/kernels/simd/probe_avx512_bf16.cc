#define KPT_SIMD_NS avx512_bf16
#include "tests/kernels/simd/probe_impl.h"
