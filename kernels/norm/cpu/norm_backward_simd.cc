// The norms' gradients in portable SIMD.
#include "kernels/norm/cpu/norm_backward_rows_impl.h"
