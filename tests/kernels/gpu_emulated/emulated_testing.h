// What the tests of emulated GPU kernels share. Nothing here has run on a GPU.
#ifndef KPT_TESTS_KERNELS_GPU_EMULATED_EMULATED_TESTING_H_
#define KPT_TESTS_KERNELS_GPU_EMULATED_EMULATED_TESTING_H_

#include "kernels/base/gpu/emulator/emulator.h"
#include "kernels/base/gpu_device.h"
#include "kernels/base/launch_context.h"

namespace kpt::emulated_testing {

// Few multiprocessors, so that small tensors already make blocks loop.
inline const GpuDevice& Device() {
  static const GpuDevice device = [] {
    GpuDevice d;
    d.major = 8;
    d.num_sms = 3;
    d.warp_size = gpu::emulator::kWave;
    return d;
  }();
  return device;
}

inline LaunchContext Context(const char* variant = nullptr, LaunchRecord* record = nullptr) {
  LaunchContext ctx;
  ctx.device = &Device();
  ctx.force_variant = variant;
  ctx.record = record;
  return ctx;
}

}  // namespace kpt::emulated_testing

#endif  // KPT_TESTS_KERNELS_GPU_EMULATED_EMULATED_TESTING_H_
