// Dequantization in portable SIMD.
#include "kernels/quant/cpu/dequantize_rows_impl.h"
