#include "kernels/base/cuda/tensor_map.h"

#include <atomic>
#include <string>

#include "kernels/base/cuda/runtime.h"

namespace kpt::cuda {
namespace {

using EncodeFn = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                              const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                              const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                              CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

bool MapType(DType dtype, CUtensorMapDataType* type) {
  switch (dtype) {
    case DType::kFloat32:
      return *type = CU_TENSOR_MAP_DATA_TYPE_FLOAT32, true;
    case DType::kFloat16:
      return *type = CU_TENSOR_MAP_DATA_TYPE_FLOAT16, true;
    case DType::kBFloat16:
      return *type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, true;
    case DType::kFloat8E4M3FN:
    case DType::kFloat8E5M2:
    case DType::kInt8:
    case DType::kUInt8:
      return *type = CU_TENSOR_MAP_DATA_TYPE_UINT8, true;
    default:
      return false;
  }
}

CUtensorMapSwizzle MapSwizzle(Swizzle swizzle) {
  switch (swizzle) {
    case Swizzle::k128:
      return CU_TENSOR_MAP_SWIZZLE_128B;
    case Swizzle::k64:
      return CU_TENSOR_MAP_SWIZZLE_64B;
    case Swizzle::k32:
      return CU_TENSOR_MAP_SWIZZLE_32B;
    case Swizzle::kNone:
      break;
  }
  return CU_TENSOR_MAP_SWIZZLE_NONE;
}

}  // namespace

Status CheckTensorMap(const char* op, const char* arg, const TensorMapSpec& spec) {
  const auto refuse = [&](const std::string& what) {
    return Status::InvalidArgument(std::string(op) + ": argument '" + arg + "' " + what);
  };
  CUtensorMapDataType type;
  if (!MapType(spec.dtype, &type)) {
    return Status::TypeError(std::string(op) + ": argument '" + arg + "' has dtype " +
                             Name(spec.dtype) + ", which no tensor map describes");
  }
  if (spec.rank < 1 || spec.rank > kMaxMapRank) {
    return refuse("must have 1 to 5 dimensions for a tensor map, got " + std::to_string(spec.rank));
  }
  if (reinterpret_cast<uintptr_t>(spec.data) % 16 != 0) {
    return refuse("must be 16-byte aligned for a tensor map");
  }
  const int64_t item = ItemSize(spec.dtype);
  for (int d = 0; d < spec.rank; ++d) {
    const std::string dim = " in dimension " + std::to_string(d) + " from the innermost";
    if (spec.size[d] < 1 || spec.size[d] > int64_t{1} << 32) {
      return refuse("must have a size of 1 to 2^32" + dim + ", got " +
                    std::to_string(spec.size[d]));
    }
    if (spec.box[d] < 1 || spec.box[d] > 256) {
      return refuse("has a box of " + std::to_string(spec.box[d]) + dim + "; 1 to 256 is possible");
    }
    if (d == 0 && spec.stride[0] != 1) return refuse("must have a dense innermost dimension");
    const int64_t bytes = spec.stride[d] * item;
    if (d > 0 && (bytes % 16 != 0 || bytes < 0 || bytes >= int64_t{1} << 40)) {
      return refuse("must have a stride that is a multiple of 16 bytes and below 2^40" + dim +
                    ", got " + std::to_string(bytes) + " bytes");
    }
  }
  const int64_t row = spec.box[0] * item;
  if (row % 16 != 0) {
    return refuse("has a box of " + std::to_string(row) + " bytes; a multiple of 16 is possible");
  }
  if (spec.swizzle != Swizzle::kNone && row > SpanBytes(spec.swizzle)) {
    return refuse("has a box of " + std::to_string(row) + " bytes, wider than the swizzle's " +
                  std::to_string(SpanBytes(spec.swizzle)));
  }
  return Status();
}

Status MakeTensorMap(const char* op, const char* arg, const TensorMapSpec& spec, CUtensorMap* map) {
  KPT_RETURN_IF_ERROR(CheckTensorMap(op, arg, spec));
  // Remembered once found; a driver does not change under a process.
  static std::atomic<void*> encode{nullptr};
  void* found = encode.load(std::memory_order_relaxed);
  if (found == nullptr) {
    KPT_RETURN_IF_ERROR(DriverFunction(op, "cuTensorMapEncodeTiled", 12000, &found));
    encode.store(found, std::memory_order_relaxed);
  }
  CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_UINT8;
  MapType(spec.dtype, &type);
  cuuint64_t sizes[kMaxMapRank], strides[kMaxMapRank];
  cuuint32_t box[kMaxMapRank], ones[kMaxMapRank];
  for (int d = 0; d < spec.rank; ++d) {
    sizes[d] = static_cast<cuuint64_t>(spec.size[d]);
    box[d] = static_cast<cuuint32_t>(spec.box[d]);
    ones[d] = 1;
    // The innermost stride is implied: strides begin with the next dimension's.
    if (d > 0) strides[d - 1] = static_cast<cuuint64_t>(spec.stride[d] * ItemSize(spec.dtype));
  }
  const CUresult result = reinterpret_cast<EncodeFn>(found)(
      map, type, static_cast<cuuint32_t>(spec.rank), const_cast<void*>(spec.data), sizes, strides,
      box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, MapSwizzle(spec.swizzle),
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return Status();
  return Status::DeviceError(std::string(op) + ": cuTensorMapEncodeTiled refused argument '" + arg +
                             "' with error " + std::to_string(static_cast<int>(result)));
}

}  // namespace kpt::cuda
