// Launch: enqueues a kernel on the context's stream. Included by .cu.cc files.
#ifndef KPT_KERNELS_BASE_GPU_LAUNCH_H_
#define KPT_KERNELS_BASE_GPU_LAUNCH_H_

#include <cstdint>
#include <string>

#include "kernels/base/gpu/vendor.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"

namespace kpt::gpu {

// kDeviceError, with the operator's and the kernel's name, when the device refuses. A call neither
// waits nor allocates.
template <class Params>
Status Launch(const char* op, const char* name, void (*kernel)(Params), int64_t blocks, int threads,
              const LaunchContext& ctx, const Params& params) {
  static_assert(sizeof(Params) <= 4096, "kernel parameters are at most 4 KiB");
  const std::string where = std::string(op) + ": kernel " + name;
#if defined(KPT_GPU_EMULATED)
  static_cast<void>(ctx);
  const std::string fault = emulator::Run(where.c_str(), blocks, threads, [&] { kernel(params); });
  return fault.empty() ? Status() : Status::DeviceError(fault);
#elif defined(__CUDACC__)
  void* arguments[] = {const_cast<Params*>(&params)};
  const cudaError_t error = cudaLaunchKernel(
      reinterpret_cast<const void*>(kernel), dim3(static_cast<unsigned>(blocks)),
      dim3(static_cast<unsigned>(threads)), arguments, 0, static_cast<cudaStream_t>(ctx.stream));
  if (error == cudaSuccess) return Status();
  static_cast<void>(cudaGetLastError());  // reported here, and not once more by whoever asks next
  return Status::DeviceError(where + ": " + cudaGetErrorString(error));
#elif defined(__HIP_DEVICE_COMPILE__)
  // Code objects of HIP hold device code alone; the host starts their kernels by name.
  static_cast<void>(kernel), static_cast<void>(blocks), static_cast<void>(threads);
  static_cast<void>(ctx), static_cast<void>(params);
  return Status::Unimplemented(where);
#else
#error "no launch for this target"
#endif
}

}  // namespace kpt::gpu

#endif  // KPT_KERNELS_BASE_GPU_LAUNCH_H_
