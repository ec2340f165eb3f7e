// LaunchContext: what every kernel call is told besides its arguments.
#ifndef KPT_KERNELS_BASE_LAUNCH_CONTEXT_H_
#define KPT_KERNELS_BASE_LAUNCH_CONTEXT_H_

#include <cstdint>

#include "kernels/base/cpu_features.h"
#include "kernels/base/gpu_device.h"

namespace kpt {

// Filled by the dispatcher, read by explain().
struct LaunchRecord {
  const char* variant = nullptr;  // static string
};

struct LaunchContext {
  int num_threads = 1;                  // what torch.get_num_threads() says
  Isa isa = Isa::kBaseline;             // highest level a variant may use
  const char* force_variant = nullptr;  // only the variant of this name may run; nullptr: any
  LaunchRecord* record = nullptr;
  // GPU backends: the device of the call's tensors, which is current during the call, and torch's
  // current stream there (a cudaStream_t; nullptr is the default stream). A call only enqueues: it
  // neither waits nor allocates, so that graphs can capture it.
  const GpuDevice* device = nullptr;
  void* stream = nullptr;
  // Scratch memory for operators that ask for it: uninitialised, 256-byte aligned.
  void* workspace = nullptr;
  int64_t workspace_bytes = 0;
};

}  // namespace kpt

#endif  // KPT_KERNELS_BASE_LAUNCH_CONTEXT_H_
