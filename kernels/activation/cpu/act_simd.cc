// The elementwise activations in portable SIMD.
#include "kernels/activation/cpu/act_rows_impl.h"
