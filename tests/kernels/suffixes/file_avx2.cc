#include "tests/kernels/suffixes/compiled_for.h"

const unsigned kpt::avx2::kFile = kCompiledFor;
