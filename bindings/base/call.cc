#include "bindings/base/call.h"

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
  }
  throw nanobind::python_error();
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
