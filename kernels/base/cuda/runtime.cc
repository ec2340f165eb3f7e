#include "kernels/base/cuda/runtime.h"

#include <mutex>
#include <utility>

namespace kpt::cuda {
namespace {

constexpr int kMaxDevices = 64;

struct DeviceEntry {
  std::once_flag once;
  GpuDevice device;
  cudaError_t error = cudaSuccess;
};

cudaError_t Describe(int index, GpuDevice* device) {
  // The attributes one by one: cudaGetDeviceProperties takes milliseconds.
  const std::pair<cudaDeviceAttr, int*> wanted[] = {
      {cudaDevAttrComputeCapabilityMajor, &device->major},
      {cudaDevAttrComputeCapabilityMinor, &device->minor},
      {cudaDevAttrMultiProcessorCount, &device->num_sms},
      {cudaDevAttrWarpSize, &device->warp_size},
      {cudaDevAttrMaxThreadsPerMultiProcessor, &device->max_threads_per_sm},
      {cudaDevAttrMaxBlocksPerMultiprocessor, &device->max_blocks_per_sm},
      {cudaDevAttrMaxRegistersPerMultiprocessor, &device->registers_per_sm},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, &device->shared_bytes_per_sm},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, &device->shared_bytes_per_block},
  };
  device->index = index;
  for (const auto& [attribute, value] : wanted) {
    const cudaError_t error = cudaDeviceGetAttribute(value, attribute, index);
    if (error != cudaSuccess) return error;
  }
  int l2 = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, index);
  device->l2_bytes = l2;
  return error;
}

}  // namespace

Status ToStatus(const char* op, const char* what, cudaError_t error) {
  if (error == cudaSuccess) return Status();
  return Status::DeviceError(std::string(op) + ": " + what + ": " + cudaGetErrorString(error) +
                             " (" + cudaGetErrorName(error) + ")");
}

Status LaunchStatus(const char* op, const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return Status();
  return ToStatus(op, (std::string("kernel ") + kernel).c_str(), error);
}

Status AllowSharedMemory(const char* op, const char* kernel_name, const void* kernel, int bytes) {
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error == cudaSuccess) return Status();
  const std::string what =
      std::string("kernel ") + kernel_name + " with " + std::to_string(bytes) + " bytes shared";
  return ToStatus(op, what.c_str(), error);
}

int DeviceCount(std::string* why) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess) return count;
  cudaGetLastError();  // said here: no later call shall find it
  // Without a driver the runtime reports error 35, as it does for one that is too old.
  int version = 0;
  const bool driver = cudaDriverGetVersion(&version) == cudaSuccess && version > 0;
  *why = driver ? std::string(cudaGetErrorString(error)) + " (" + cudaGetErrorName(error) + ")"
                : "no NVIDIA driver (libcuda.so.1) is installed";
  return 0;
}

Status FindDevice(const char* op, int index, const GpuDevice** device) {
  static auto* entries = new DeviceEntry[kMaxDevices];
  if (index < 0 || index >= kMaxDevices) {
    return Status::DeviceError(std::string(op) + ": no CUDA device " + std::to_string(index));
  }
  DeviceEntry& entry = entries[index];
  std::call_once(entry.once, [&] { entry.error = Describe(index, &entry.device); });
  *device = &entry.device;
  if (entry.error == cudaSuccess) return Status();
  return ToStatus(op, ("CUDA device " + std::to_string(index)).c_str(), entry.error);
}

Status DriverFunction(const char* op, const char* name, int since, void** function) {
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error = cudaGetDriverEntryPointByVersion(
      name, function, static_cast<unsigned>(since), cudaEnableDefault, &found);
  if (error != cudaSuccess) return ToStatus(op, name, error);
  if (found == cudaDriverEntryPointSuccess) return Status();
  return Status::DeviceError(std::string(op) + ": the NVIDIA driver has no " + name + " of CUDA " +
                             std::to_string(since / 1000) + "." + std::to_string(since / 10 % 100));
}

DeviceGuard::DeviceGuard(int index) {
  int current = -1;
  error_ = cudaGetDevice(&current);
  if (error_ != cudaSuccess || current == index) return;
  error_ = cudaSetDevice(index);
  if (error_ == cudaSuccess) before_ = current;
}

DeviceGuard::~DeviceGuard() {
  if (before_ >= 0) cudaSetDevice(before_);
}

}  // namespace kpt::cuda
