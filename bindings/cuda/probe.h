// What a GPU reaches: not operators, nothing of it is in torch.ops.kpt.
#ifndef KPT_BINDINGS_CUDA_PROBE_H_
#define KPT_BINDINGS_CUDA_PROBE_H_

#include <nanobind/nanobind.h>

namespace kpt::bindings {

// probe_product.
void BindCudaProbe(nanobind::module_& m);

}  // namespace kpt::bindings

#endif  // KPT_BINDINGS_CUDA_PROBE_H_
