// OnDevice: while it lives, the device of a call's tensors is current for this thread, and the
// context names that device, torch's current stream on it, and a workspace from torch's allocator.
#ifndef KPT_BINDINGS_CUDA_ON_DEVICE_H_
#define KPT_BINDINGS_CUDA_ON_DEVICE_H_

#include <nanobind/nanobind.h>

#include <cstdint>

#include "kernels/base/cuda/runtime.h"
#include "kernels/base/launch_context.h"

namespace kpt::bindings {

class OnDevice {
 public:
  // GIL held. Raises RuntimeError when the device cannot be used.
  OnDevice(const char* op, nanobind::handle tensor, int device, LaunchContext* ctx);

  // GIL held. The memory goes back to torch's allocator at the end, which hands it out again in the
  // order of the stream. Raises what torch raises when there is none.
  void AddWorkspace(int64_t bytes, LaunchContext* ctx);

 private:
  cuda::DeviceGuard guard_;
  nanobind::handle tensor_;
  nanobind::object workspace_;
};

}  // namespace kpt::bindings

#endif  // KPT_BINDINGS_CUDA_ON_DEVICE_H_
