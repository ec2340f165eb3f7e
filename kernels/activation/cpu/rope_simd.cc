// rope in portable SIMD.
#include "kernels/activation/cpu/rope_rows_impl.h"
