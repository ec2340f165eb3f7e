// GpuDevice: what the choice of a kernel, of its grid and of its shared memory depends on. Plain
// data, so that those choices are tested without a GPU.
#ifndef KPT_KERNELS_BASE_GPU_DEVICE_H_
#define KPT_KERNELS_BASE_GPU_DEVICE_H_

#include <cstdint>

namespace kpt {

struct GpuDevice {
  int index = 0;  // as torch counts devices
  int major = 0;  // compute capability (NVIDIA), 8 and 0 for sm_80
  int minor = 0;
  int num_sms = 1;  // multiprocessors (NVIDIA), compute units (AMD)
  int warp_size = 32;
  int max_threads_per_sm = 1024;
  int max_blocks_per_sm = 16;
  int registers_per_sm = 65536;  // of 32 bits
  int shared_bytes_per_sm = 64 * 1024;
  int shared_bytes_per_block = 48 * 1024;  // the most that a kernel may ask for (opt-in)
  int64_t l2_bytes = 0;
};

// What a variant is compiled for.
enum class GpuTarget {
  kPortable,  // NVIDIA: compute capability 8.0 and later
  kSm90a,     // that one and no other: its instructions exist on no later GPU either
  kSm100a,
  kSm120a,
};

constexpr const char* Name(GpuTarget target) {
  switch (target) {
    case GpuTarget::kPortable:
      return "portable";
    case GpuTarget::kSm90a:
      return "sm_90a";
    case GpuTarget::kSm100a:
      return "sm_100a";
    case GpuTarget::kSm120a:
      return "sm_120a";
  }
  return "unknown";
}

constexpr bool RunsOn(GpuTarget target, const GpuDevice& device) {
  switch (target) {
    case GpuTarget::kPortable:
      return device.major >= 8;
    case GpuTarget::kSm90a:
      return device.major == 9 && device.minor == 0;
    case GpuTarget::kSm100a:
      return device.major == 10 && device.minor == 0;
    case GpuTarget::kSm120a:
      return device.major == 12 && device.minor == 0;
  }
  return false;
}

}  // namespace kpt

#endif  // KPT_KERNELS_BASE_GPU_DEVICE_H_
