// Launch: enqueues a kernel on the context's stream. ForFloatType: the instance for a dtype.
// Included by .cu.cc files.
#ifndef KPT_KERNELS_BASE_GPU_LAUNCH_H_
#define KPT_KERNELS_BASE_GPU_LAUNCH_H_

#include <cstdint>
#include <string>

#include "kernels/base/dtype.h"
#include "kernels/base/gpu/vendor.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"

namespace kpt::gpu {

// kDeviceError, with the operator's and the kernel's name, when the device refuses. A call neither
// waits nor allocates. `dynamic_bytes`: of shared memory, a block.
template <class Params>
Status Launch(const char* op, const char* name, void (*kernel)(Params), int64_t blocks, int threads,
              const LaunchContext& ctx, const Params& params, int dynamic_bytes = 0) {
  static_assert(sizeof(Params) <= 4096, "kernel parameters are at most 4 KiB");
  const std::string where = std::string(op) + ": kernel " + name;
#if defined(KPT_GPU_EMULATED)
  static_cast<void>(ctx);
  const std::string fault =
      emulator::Run(where.c_str(), blocks, threads, dynamic_bytes, [&] { kernel(params); });
  return fault.empty() ? Status() : Status::DeviceError(fault);
#elif defined(__CUDACC__)
  void* arguments[] = {const_cast<Params*>(&params)};
  const void* const function = reinterpret_cast<const void*>(kernel);
  cudaError_t error = cudaSuccess;
  if (dynamic_bytes > 48 << 10) {  // what a kernel may have without asking
    error =
        cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic_bytes);
  }
  if (error == cudaSuccess) {
    error = cudaLaunchKernel(
        function, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)),
        arguments, static_cast<size_t>(dynamic_bytes), static_cast<cudaStream_t>(ctx.stream));
  }
  if (error == cudaSuccess) return Status();
  static_cast<void>(cudaGetLastError());  // reported here, and not once more by whoever asks next
  return Status::DeviceError(where + ": " + cudaGetErrorString(error));
#elif defined(__HIP_DEVICE_COMPILE__)
  // Code objects of HIP hold device code alone; the host starts their kernels by name.
  static_cast<void>(kernel), static_cast<void>(blocks), static_cast<void>(threads);
  static_cast<void>(ctx), static_cast<void>(params), static_cast<void>(dynamic_bytes);
  return Status::Unimplemented(where);
#else
#error "no launch for this target"
#endif
}

// f(T()) with the T that tensors of this dtype are made of: float32, float16 or bfloat16, as the
// operators' checks have made sure.
template <class F>
Status ForFloatType(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kFloat32:
      return f(float());
    case DType::kFloat16:
      return f(Float16());
    default:
      return f(BFloat16());
  }
}

}  // namespace kpt::gpu

#endif  // KPT_KERNELS_BASE_GPU_LAUNCH_H_
