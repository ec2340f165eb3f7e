// What steers dispatch from Python: forced variants and the list of variants.
#ifndef KPT_BINDINGS_BASE_CONTROL_H_
#define KPT_BINDINGS_BASE_CONTROL_H_

#include <nanobind/nanobind.h>

#include <vector>

#include "kernels/base/variant.h"

namespace kpt::bindings {

// The variant forced for `op`; nullptr when there is none.
const char* ForcedVariant(const char* op);

// Makes the op's variants known to variants() and force_variant(). Called once per op at import.
void AddVariants(const char* op, const std::vector<VariantInfo>& variants);

// force_variant, variants, boundary, describe.
void BindControl(nanobind::module_& m);

}  // namespace kpt::bindings

#endif  // KPT_BINDINGS_BASE_CONTROL_H_
