// Norms and activations with quantization, in portable SIMD.
#include "kernels/quant/cpu/fused_rows_impl.h"
