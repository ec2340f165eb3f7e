// The kernels of probe_product.
#ifndef KPT_KERNELS_PROBE_CUDA_PRODUCT_H_
#define KPT_KERNELS_PROBE_CUDA_PRODUCT_H_

#include "kernels/probe/product.h"

namespace kpt::cuda {

// Checked arguments; a tile of 128x256x64 a block.
Status ProductSm90a(const LaunchContext& ctx, const ProbeProductArgs& args);

}  // namespace kpt::cuda

#endif  // KPT_KERNELS_PROBE_CUDA_PRODUCT_H_
