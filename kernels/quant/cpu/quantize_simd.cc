// Quantization in portable SIMD.
#include "kernels/quant/cpu/quantize_rows_impl.h"
