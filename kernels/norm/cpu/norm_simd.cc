// The norms in portable SIMD.
#include "kernels/norm/cpu/norm_rows_impl.h"
