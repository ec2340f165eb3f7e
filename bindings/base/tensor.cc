#include "bindings/base/tensor.h"

#include <dlpack/dlpack.h>
#include <nanobind/stl/string.h>

#include <string>

namespace kpt::bindings {
namespace nb = nanobind;
namespace {

// Where this backend's tensors lie: for DLPack, as torch calls it, and in words.
#if defined(KPT_BACKEND_IS_CUDA)
constexpr DLDeviceType kDevice = kDLCUDA;
constexpr const char* kDeviceName = "cuda";
constexpr const char* kOnDevice = "on a CUDA device";
constexpr const char* kDenseTensor = "must be a dense CUDA tensor with storage: ";
#else
constexpr DLDeviceType kDevice = kDLCPU;
constexpr const char* kDeviceName = "cpu";
constexpr const char* kOnDevice = "on the CPU";
constexpr const char* kDenseTensor = "must be a dense CPU tensor with storage: ";
#endif

[[noreturn]] void RaiseType(const char* op, const char* arg, const std::string& what) {
  throw nb::type_error((std::string(op) + ": argument '" + arg + "' " + what).c_str());
}
[[noreturn]] void RaiseValue(const char* op, const char* arg, const std::string& what) {
  throw nb::value_error((std::string(op) + ": argument '" + arg + "' " + what).c_str());
}

const DLPackExchangeAPI* LookUpApi(PyTypeObject* type) {
  PyObject* capsule =
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
  if (capsule == nullptr) {
    PyErr_Clear();
    return nullptr;
  }
  auto* api =
      static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  Py_DECREF(capsule);
  if (api == nullptr) PyErr_Clear();
  return api != nullptr && api->header.version.major == DLPACK_MAJOR_VERSION ? api : nullptr;
}

// The API is one static table per tensor type. Tensor and Parameter are two types, and calls mix
// them, so the last two types seen are remembered. Guarded by the GIL.
const DLPackExchangeAPI* ApiOf(PyTypeObject* type) {
  struct Entry {
    PyTypeObject* type = nullptr;
    const DLPackExchangeAPI* api = nullptr;
  };
  static Entry seen[2];
  static int next = 0;
  for (const Entry& e : seen) {
    if (e.type == type) return e.api;
  }
  const DLPackExchangeAPI* api = LookUpApi(type);
  Py_INCREF(reinterpret_cast<PyObject*>(type));  // keeps a remembered address from being reused
  Entry& e = seen[next];
  next ^= 1;
  Py_XDECREF(reinterpret_cast<PyObject*>(e.type));
  e = {type, api};
  return api;
}

bool FromDlpack(const DLDataType& d, DType* out) {
  if (d.lanes != 1) return false;
  switch (d.code) {
    case kDLFloat:
      if (d.bits == 32) return *out = DType::kFloat32, true;
      if (d.bits == 16) return *out = DType::kFloat16, true;
      if (d.bits == 64) return *out = DType::kFloat64, true;
      return false;
    case kDLBfloat:
      return d.bits == 16 && (*out = DType::kBFloat16, true);
    case kDLFloat8_e4m3fn:
      return *out = DType::kFloat8E4M3FN, true;
    case kDLFloat8_e5m2:
      return *out = DType::kFloat8E5M2, true;
    case kDLFloat8_e4m3fnuz:
      return *out = DType::kFloat8E4M3FNUZ, true;
    case kDLInt:
      if (d.bits == 8) return *out = DType::kInt8, true;
      if (d.bits == 32) return *out = DType::kInt32, true;
      if (d.bits == 64) return *out = DType::kInt64, true;
      return false;
    case kDLUInt:
      return d.bits == 8 && (*out = DType::kUInt8, true);
    case kDLBool:
      return *out = DType::kBool, true;
    default:
      return false;
  }
}

bool FromName(const std::string& name, DType* out) {
  for (int i = 0; i <= static_cast<int>(DType::kBool); ++i) {
    const DType dtype = static_cast<DType>(i);
    if (name == std::string("torch.") + Name(dtype)) return *out = dtype, true;
  }
  return false;
}

void FillLayout(const DLTensor& t, MutableTensorView* view) {
  view->rank = t.ndim;
  int64_t dense = 1;
  for (int i = t.ndim - 1; i >= 0; --i) {
    view->shape[i] = t.shape[i];
    view->strides[i] = t.strides != nullptr ? t.strides[i] : dense;
    dense *= t.shape[i];
  }
  view->data = t.data != nullptr ? static_cast<char*>(t.data) + t.byte_offset : nullptr;
}

void FillFromDlpack(const DLPackExchangeAPI* api, nb::handle object, const char* op,
                    const char* arg, MutableTensorView* view, int* device) {
  DLTensor t;
  if (api->dltensor_from_py_object_no_sync(object.ptr(), &t) != 0) {
    // Sparse, meta, fake and wrapper tensors. torch's message carries a C++ stack: keep one line.
    const nb::python_error error;
    const std::string message = error.what();
    const size_t begin = message.find(": ");
    const size_t start = begin == std::string::npos ? 0 : begin + 2;
    RaiseType(op, arg, kDenseTensor + message.substr(start, message.find('\n', start) - start));
  }
  if (t.device.device_type != kDevice) {
    RaiseType(op, arg,
              std::string("must be ") + kOnDevice + ", got DLPack device type " +
                  std::to_string(static_cast<int>(t.device.device_type)));
  }
  *device = t.device.device_id;
  if (t.ndim > kMaxRank) {
    RaiseValue(op, arg,
               "must have at most " + std::to_string(kMaxRank) + " dimensions, got " +
                   std::to_string(t.ndim));
  }
  if (!FromDlpack(t.dtype, &view->dtype)) RaiseType(op, arg, "has an unsupported dtype");
  FillLayout(t, view);
}

std::string TextOf(nb::handle object) {
  const nb::object text = nb::steal(PyObject_Str(object.ptr()));
  if (!text.is_valid()) throw nb::python_error();
  return nb::cast<std::string>(text);
}

void FillFromAttributes(nb::handle object, const char* op, const char* arg, MutableTensorView* view,
                        int* index) {
  if (!nb::hasattr(object, "data_ptr") || !nb::hasattr(object, "stride")) {
    RaiseType(op, arg, "must be a torch.Tensor, got " + TextOf(object.type()));
  }
  const std::string device = TextOf(nb::object(object.attr("device").attr("type")));
  if (device != kDeviceName) {
    RaiseType(op, arg, std::string("must be ") + kOnDevice + ", got device " + device);
  }
  const nb::object number(object.attr("device").attr("index"));
  *index = number.is_none() ? 0 : nb::cast<int>(number);
  const std::string layout = TextOf(nb::object(object.attr("layout")));
  if (layout != "torch.strided") RaiseType(op, arg, "must be a strided tensor, got " + layout);
  const std::string dtype = TextOf(nb::object(object.attr("dtype")));
  if (!FromName(dtype, &view->dtype)) RaiseType(op, arg, "has unsupported dtype " + dtype);
  const nb::tuple shape(object.attr("shape"));
  const nb::tuple strides(object.attr("stride")());
  if (shape.size() > kMaxRank) {
    RaiseValue(op, arg,
               "must have at most " + std::to_string(kMaxRank) + " dimensions, got " +
                   std::to_string(shape.size()));
  }
  view->rank = static_cast<int>(shape.size());
  for (int i = 0; i < view->rank; ++i) {
    view->shape[i] = nb::cast<int64_t>(shape[i]);
    view->strides[i] = nb::cast<int64_t>(strides[i]);
  }
  view->data = reinterpret_cast<const void*>(nb::cast<uintptr_t>(object.attr("data_ptr")()));
}

}  // namespace

MutableTensorView ViewOf(nb::handle object, const char* op, const char* arg, Layout layout,
                         int* device) {
  MutableTensorView view;
  int unused;
  if (device == nullptr) device = &unused;
  if (const DLPackExchangeAPI* api = ApiOf(Py_TYPE(object.ptr()))) {
    FillFromDlpack(api, object, op, arg, &view, device);
  } else {
    FillFromAttributes(object, op, arg, &view, device);
  }
  // One pass: sizes, whether the byte count fits, the last stride.
  int64_t elements = 1;
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] < 0) {
      RaiseValue(op, arg, "has a negative size in dimension " + std::to_string(i));
    }
    if (__builtin_mul_overflow(elements, view.shape[i], &elements)) {
      RaiseValue(op, arg, "has more elements than a 64-bit count holds");
    }
  }
  if (elements == 0) return view;
  if (view.data == nullptr) {
    RaiseValue(op, arg, "has no storage (a meta or fake tensor reached a native kernel)");
  }
  if (reinterpret_cast<uintptr_t>(view.data) % ItemSize(view.dtype) != 0) {
    RaiseValue(op, arg,
               std::string("must be aligned to its element size (") +
                   std::to_string(ItemSize(view.dtype)) + " bytes for " + Name(view.dtype) +
                   "), got a misaligned storage");
  }
  if (layout == Layout::kDenseLast && view.rank > 0 && view.dim(-1) > 1 && view.stride(-1) != 1) {
    RaiseValue(op, arg,
               "must have a dense last dimension (stride 1), got stride " +
                   std::to_string(view.stride(-1)) + "; call .contiguous() first");
  }
  return view;
}

bool TryView(nb::handle object, MutableTensorView* view) {
  const DLPackExchangeAPI* api = ApiOf(Py_TYPE(object.ptr()));
  if (api == nullptr) return false;
  DLTensor t;
  if (api->dltensor_from_py_object_no_sync(object.ptr(), &t) != 0) {
    PyErr_Clear();
    return false;
  }
  if (t.device.device_type != kDevice || t.ndim > kMaxRank || !FromDlpack(t.dtype, &view->dtype)) {
    return false;
  }
  FillLayout(t, view);
  return true;
}

nb::tuple Describe(nb::handle tensor) {
  const MutableTensorView view = ViewOf(tensor, "describe", "tensor", Layout::kAny);
  nb::list shape, strides;
  for (int d = 0; d < view.rank; ++d) {
    shape.append(view.shape[d]);
    strides.append(view.strides[d]);
  }
  return nb::make_tuple(reinterpret_cast<uintptr_t>(view.data), Name(view.dtype), nb::tuple(shape),
                        nb::tuple(strides));
}

const char* BoundaryOf(nb::handle tensor_type) {
  return ApiOf(reinterpret_cast<PyTypeObject*>(tensor_type.ptr())) != nullptr
             ? "dlpack_c_exchange_api"
             : "python_attributes";
}

#if defined(KPT_BACKEND_IS_CUDA)
void* CurrentStream(nb::handle tensor, int device) {
  const DLPackExchangeAPI* api = ApiOf(Py_TYPE(tensor.ptr()));
  void* stream = nullptr;
  if (api != nullptr && api->current_work_stream != nullptr) {
    if (api->current_work_stream(kDLCUDA, device, &stream) != 0) throw nb::python_error();
    return stream;
  }
  const nb::object raw =
      nb::module_::import_("torch").attr("_C").attr("_cuda_getCurrentRawStream")(device);
  return reinterpret_cast<void*>(nb::cast<uintptr_t>(raw));
}
#endif

}  // namespace kpt::bindings
