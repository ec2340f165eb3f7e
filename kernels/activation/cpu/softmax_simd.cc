// softmax in portable SIMD.
#include "kernels/activation/cpu/softmax_rows_impl.h"
