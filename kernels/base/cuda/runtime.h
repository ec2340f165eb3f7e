// What the host side of CUDA kernels needs from the runtime: errors as Status, devices, kernels
// that want more shared memory, and driver functions found at run time.
//
// The runtime is linked statically and loads the driver when it is first asked for something: a
// module with this code imports on a machine that has neither GPU nor driver.
#ifndef KPT_KERNELS_BASE_CUDA_RUNTIME_H_
#define KPT_KERNELS_BASE_CUDA_RUNTIME_H_

#include <cuda_runtime_api.h>

#include <string>

#include "kernels/base/gpu_device.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"

namespace kpt::cuda {

inline cudaStream_t StreamOf(const LaunchContext& ctx) {
  return static_cast<cudaStream_t>(ctx.stream);
}

// Ok, or kDeviceError that says "<op>: <what>: <CUDA's words> (<CUDA's name of the error>)".
Status ToStatus(const char* op, const char* what, cudaError_t error);

// To be returned right after `kernel<<<...>>>(...)`: whether the launch was accepted. Errors inside
// a kernel show at a later call, as in all of CUDA.
Status LaunchStatus(const char* op, const char* kernel);

// Lets `kernel` be launched with `bytes` of dynamic shared memory, which above 48 KiB must be asked
// for. Cheap when it was asked for before; does not disturb graph capture.
Status AllowSharedMemory(const char* op, const char* kernel_name, const void* kernel, int bytes);

// How many devices there are: 0 without a GPU or without a driver, and `why` then says which.
int DeviceCount(std::string* why);

// What is known of a device, asked once; an error names the device. Valid for ever.
Status FindDevice(const char* op, int index, const GpuDevice** device);

// A function of the driver (libcuda), of the version that came with CUDA `since` (12000 is 12.0).
Status DriverFunction(const char* op, const char* name, int since, void** function);

// Makes a device current for the calling thread, and the one before it again at the end. Nothing is
// done where it is current already.
class DeviceGuard {
 public:
  explicit DeviceGuard(int index);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  cudaError_t error() const { return error_; }

 private:
  int before_ = -1;  // what must be made current again; -1: nothing
  cudaError_t error_ = cudaSuccess;
};

}  // namespace kpt::cuda

#endif  // KPT_KERNELS_BASE_CUDA_RUNTIME_H_
