// What the CUDA module tells of the machine. A call's device and stream: on_device.h.
#include "bindings/base/context.h"

#include <string>

#include "bindings/base/control.h"
#include "kernels/base/cuda/runtime.h"

namespace kpt::bindings {
namespace nb = nanobind;
namespace {

// (devices, why there are none): the compute capability of each, as (major, minor). The first call
// loads the driver.
nb::tuple Devices() {
  nb::list found;
  std::string why;
  const int count = cuda::DeviceCount(&why);
  for (int i = 0; i < count; ++i) {
    const GpuDevice* device = nullptr;
    const Status status = cuda::FindDevice("devices", i, &device);
    if (!status.ok()) return nb::make_tuple(nb::list(), status.message().c_str());
    found.append(nb::make_tuple(device->major, device->minor));
  }
  return nb::make_tuple(found, why.c_str());
}

}  // namespace

LaunchContext MakeContext(const char* op) {
  LaunchContext ctx;
  ctx.force_variant = ForcedVariant(op);
  return ctx;
}

void BindContext(nb::module_& m) {
  // Whether there is a GPU shows when it is used; importing asks nothing of the driver.
  m.def("load_error", [] { return ""; });
  m.def("devices", &Devices);
  m.attr("runtime_version") = CUDART_VERSION;
}

}  // namespace kpt::bindings
