// Status: how kernels report failure. Kernels are built without exceptions; bindings/base turns a
// Status into a Python exception.
#ifndef KPT_KERNELS_BASE_STATUS_H_
#define KPT_KERNELS_BASE_STATUS_H_

#include <string>
#include <utility>

namespace kpt {

enum class StatusCode {
  kOk,
  kInvalidArgument,    // a value, shape, stride or alignment is wrong   -> ValueError
  kTypeError,          // a dtype or device is wrong                     -> TypeError
  kUnimplemented,      // no native variant serves this call             -> the reference runs
  kResourceExhausted,  // scratch memory could not be had                -> MemoryError
  kDeviceError,        // a GPU's driver or runtime refused              -> RuntimeError
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  static Status InvalidArgument(std::string message) {
    return Status(StatusCode::kInvalidArgument, std::move(message));
  }
  static Status TypeError(std::string message) {
    return Status(StatusCode::kTypeError, std::move(message));
  }
  static Status Unimplemented(std::string message) {
    return Status(StatusCode::kUnimplemented, std::move(message));
  }
  static Status ResourceExhausted(std::string message) {
    return Status(StatusCode::kResourceExhausted, std::move(message));
  }
  static Status DeviceError(std::string message) {
    return Status(StatusCode::kDeviceError, std::move(message));
  }

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

}  // namespace kpt

#define KPT_RETURN_IF_ERROR(expr)              \
  do {                                         \
    ::kpt::Status kpt_status_ = (expr);        \
    if (!kpt_status_.ok()) return kpt_status_; \
  } while (false)

#endif  // KPT_KERNELS_BASE_STATUS_H_
