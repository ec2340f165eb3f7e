// DType: the element types that cross the boundary.
#ifndef KPT_KERNELS_BASE_DTYPE_H_
#define KPT_KERNELS_BASE_DTYPE_H_

#include <cstdint>

namespace kpt {

enum class DType : uint8_t {
  kFloat32,
  kFloat16,
  kBFloat16,
  kFloat64,
  kFloat8E4M3FN,    // OCP: no infinity, 448 largest, one NaN a sign
  kFloat8E5M2,      // OCP: IEEE-like, infinities and NaNs
  kFloat8E4M3FNUZ,  // AMD MI300: bias 8, no negative zero, 0x80 is NaN
  kInt8,
  kUInt8,
  kInt32,
  kInt64,
  kBool,
};

constexpr int64_t ItemSize(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
    case DType::kInt64:
      return 8;
    case DType::kFloat32:
    case DType::kInt32:
      return 4;
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    default:
      return 1;
  }
}

// The name PyTorch users know, for messages.
constexpr const char* Name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat16:
      return "float16";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat64:
      return "float64";
    case DType::kFloat8E4M3FN:
      return "float8_e4m3fn";
    case DType::kFloat8E5M2:
      return "float8_e5m2";
    case DType::kFloat8E4M3FNUZ:
      return "float8_e4m3fnuz";
    case DType::kInt8:
      return "int8";
    case DType::kUInt8:
      return "uint8";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
    case DType::kBool:
      return "bool";
  }
  return "unknown";
}

}  // namespace kpt

#endif  // KPT_KERNELS_BASE_DTYPE_H_
