// What steers dispatch from Python: the ISA limit, forced variants, and the list of variants.
#ifndef KPT_BINDINGS_BASE_CONTROL_H_
#define KPT_BINDINGS_BASE_CONTROL_H_

#include <nanobind/nanobind.h>

#include <vector>

#include "kernels/base/launch_context.h"
#include "kernels/base/variant.h"

namespace kpt::bindings {

// Threads from torch's OpenMP runtime, the ISA limit, and the variant forced for `op` if any.
LaunchContext MakeContext(const char* op);

// Makes the op's variants known to variants() and force_variant(). Called once per op at import.
void AddVariants(const char* op, const std::vector<VariantInfo>& variants);

// detected_isa, isa, set_isa_limit, force_variant, variants, boundary, describe, max_threads,
// cpu_features.
void BindControl(nanobind::module_& m);

}  // namespace kpt::bindings

#endif  // KPT_BINDINGS_BASE_CONTROL_H_
