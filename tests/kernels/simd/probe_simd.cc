#include "tests/kernels/simd/probe_impl.h"
