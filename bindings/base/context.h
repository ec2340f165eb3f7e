// What a kernel call is told besides its arguments; one implementation a backend.
#ifndef KPT_BINDINGS_BASE_CONTEXT_H_
#define KPT_BINDINGS_BASE_CONTEXT_H_

#include <nanobind/nanobind.h>

#include "kernels/base/launch_context.h"

namespace kpt::bindings {

// What does not depend on the call's tensors, and the variant forced for `op` if any.
LaunchContext MakeContext(const char* op);

// load_error (why the module is of no use here, "" when it is), and what the backend tells of the
// machine. CPU: detected_isa, isa, set_isa_limit, max_threads, cpu_features. CUDA: devices.
void BindContext(nanobind::module_& m);

}  // namespace kpt::bindings

#endif  // KPT_BINDINGS_BASE_CONTEXT_H_
