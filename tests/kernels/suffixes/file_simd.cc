#include "tests/kernels/suffixes/compiled_for.h"

const unsigned kpt::KPT_SIMD_NS::kSimdFile = kCompiledFor;
