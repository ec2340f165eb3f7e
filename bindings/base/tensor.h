// Tensors across the boundary without libtorch: a borrowed view of a torch.Tensor.
//
// The fast way is DLPack's C exchange API (torch.Tensor.__dlpack_c_exchange_api__, 50-100 ns a
// tensor); where torch does not have it, the tensor's Python attributes are read (microseconds).
#ifndef KPT_BINDINGS_BASE_TENSOR_H_
#define KPT_BINDINGS_BASE_TENSOR_H_

#include <nanobind/nanobind.h>

#include "kernels/base/tensor_view.h"

namespace kpt::bindings {

enum class Layout {
  kDenseLast,  // the last dimension has stride 1
  kAny,        // any strides, for example a broadcast mask
};

// Raises TypeError or ValueError naming `op` and `arg` when `object` is not a tensor with storage
// on this backend's kind of device, has a rank above kMaxRank or an unknown dtype, is misaligned
// for its dtype, or breaks `layout`. Must be called with the GIL held; the view is valid while the
// tensor lives. `device` receives the device's index.
MutableTensorView ViewOf(nanobind::handle object, const char* op, const char* arg, Layout layout,
                         int* device = nullptr);

// The same where that is quick and cannot fail: false, with no exception set, for anything but a
// dense tensor on this backend's kind of device, of a type with the exchange API.
bool TryView(nanobind::handle object, MutableTensorView* view);

// What a kernel would be given: (address, dtype name, shape, strides in elements).
nanobind::tuple Describe(nanobind::handle tensor);

// Which way tensors cross: "dlpack_c_exchange_api" or "python_attributes".
const char* BoundaryOf(nanobind::handle tensor_type);

#if defined(KPT_BACKEND_IS_CUDA)
// torch's current stream on a device, asked of the library that `tensor` comes from.
void* CurrentStream(nanobind::handle tensor, int device);
#endif

}  // namespace kpt::bindings

#endif  // KPT_BINDINGS_BASE_TENSOR_H_
