// Tensor maps: what the tensor memory accelerator (TMA) is told of a tensor in global memory. Made
// on the host, by the driver, and handed to a kernel as a __grid_constant__ parameter.
#ifndef KPT_KERNELS_BASE_CUDA_TENSOR_MAP_H_
#define KPT_KERNELS_BASE_CUDA_TENSOR_MAP_H_

#include <cuda.h>

#include <cstdint>

#include "kernels/base/cuda/layout.h"
#include "kernels/base/dtype.h"
#include "kernels/base/status.h"

namespace kpt::cuda {

inline constexpr int kMaxMapRank = 5;

// Dimensions from the innermost out, the reverse of a tensor's order.
struct TensorMapSpec {
  const void* data = nullptr;
  DType dtype = DType::kBFloat16;
  int rank = 2;
  int64_t size[kMaxMapRank] = {};
  int64_t stride[kMaxMapRank] = {};  // in elements; stride[0] is 1
  int box[kMaxMapRank] = {};         // what one copy brings: elements
  Swizzle swizzle = Swizzle::k128;
};

// kInvalidArgument, naming the operator and the argument, for what the hardware cannot describe: an
// address or a stride that is no multiple of 16 bytes, a box beyond 256 or wider than the swizzle's
// span, a size of 0 or beyond 2^32, a stride of 2^40 bytes. No driver is needed.
Status CheckTensorMap(const char* op, const char* arg, const TensorMapSpec& spec);

// Checks, then has the driver encode. Elements outside the tensor read as zero.
Status MakeTensorMap(const char* op, const char* arg, const TensorMapSpec& spec, CUtensorMap* map);

}  // namespace kpt::cuda

#endif  // KPT_KERNELS_BASE_CUDA_TENSOR_MAP_H_
