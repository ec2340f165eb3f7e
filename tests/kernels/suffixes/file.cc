#include "tests/kernels/suffixes/compiled_for.h"

const unsigned kpt::kPlainFile = kCompiledFor;
