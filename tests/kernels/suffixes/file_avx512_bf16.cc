#include "tests/kernels/suffixes/compiled_for.h"

const unsigned kpt::avx512_bf16::kFile = kCompiledFor;
