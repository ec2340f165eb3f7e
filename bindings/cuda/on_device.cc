#include "bindings/cuda/on_device.h"

#include "bindings/base/call.h"
#include "bindings/base/tensor.h"

namespace kpt::bindings {
namespace nb = nanobind;

OnDevice::OnDevice(const char* op, nb::handle tensor, int device, LaunchContext* ctx)
    : guard_(device), tensor_(tensor) {
  ThrowIfError(cuda::ToStatus(op, "making the device current", guard_.error()));
  ThrowIfError(cuda::FindDevice(op, device, &ctx->device));
  ctx->stream = CurrentStream(tensor, device);
}

void OnDevice::AddWorkspace(int64_t bytes, LaunchContext* ctx) {
  if (bytes <= 0) return;
  const nb::object uint8(nb::module_::import_("torch").attr("uint8"));
  workspace_ = tensor_.attr("new_empty")(bytes, nb::arg("dtype") = uint8);
  ctx->workspace = reinterpret_cast<void*>(nb::cast<uintptr_t>(workspace_.attr("data_ptr")()));
  ctx->workspace_bytes = bytes;
}

}  // namespace kpt::bindings
