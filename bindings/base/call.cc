#include "bindings/base/call.h"

#include <stdexcept>
#include <string>

namespace kpt::bindings {

void ThrowIfError(const Status& status) {
  switch (status.code()) {
    case StatusCode::kOk:
      return;
    case StatusCode::kInvalidArgument:
      throw nanobind::value_error(status.message().c_str());
    case StatusCode::kTypeError:
      throw nanobind::type_error(status.message().c_str());
    case StatusCode::kUnimplemented:
      PyErr_SetString(PyExc_NotImplementedError, status.message().c_str());
      break;
    case StatusCode::kResourceExhausted:
      PyErr_SetString(PyExc_MemoryError, status.message().c_str());
      break;
    case StatusCode::kDeviceError:
      PyErr_SetString(PyExc_RuntimeError, status.message().c_str());
      break;
  }
  throw nanobind::python_error();
}

PreparedCall& LastCall() {
  static thread_local PreparedCall last;
  return last;
}

void Call::Remember(const char* arg, nanobind::handle tensor, const TensorView* view,
                    bool is_output, int device) {
  if (tensors_ == PreparedCall::kMaxTensors) {
    throw std::logic_error(std::string(op_) + ": more tensors than PreparedCall::kMaxTensors");
  }
  if (tensors_ == 0) device_ = device;
  if (device != device_) {
    throw nanobind::value_error((std::string(op_) + ": argument '" + arg + "' must be on device " +
                                 std::to_string(device_) + " like '" + taken_[0].arg + "', got " +
                                 std::to_string(device))
                                    .c_str());
  }
  taken_[tensors_++] = {arg, tensor.ptr(), view, is_output};
}

ActivationKind Call::Activation(const char* arg, const char* name) {
  ActivationKind kind;
  if (!ParseActivationKind(name, &kind)) {
    throw nanobind::value_error(
        (std::string(op_) + ": argument '" + arg + "' is not a known activation: '" + name + "'")
            .c_str());
  }
  return kind;
}

}  // namespace kpt::bindings
