#include "tests/kernels/suffixes/compiled_for.h"

const unsigned kpt::avx512::kFile = kCompiledFor;
