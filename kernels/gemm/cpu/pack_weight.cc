#include "kernels/gemm/pack_weight.h"

#include <cmath>
#include <cstring>
#include <string>

#include "kernels/base/float_codec.h"
#include "kernels/base/parallel_for.h"
#include "kernels/base/row_checks.h"
#include "kernels/gemm/cpu/panel.h"

namespace kpt {
namespace {

struct FormatName {
  const char* name;
  PackFormat format;
};
constexpr FormatName kFormats[] = {
    {"bf16", PackFormat::kBf16},
    {"fp32", PackFormat::kFp32},
    {"int8", PackFormat::kInt8},
    {"fp8_e4m3", PackFormat::kFp8E4M3},
};

}  // namespace

bool ParsePackFormat(const char* name, PackFormat* format) {
  for (const FormatName& f : kFormats) {
    if (std::strcmp(f.name, name) == 0) {
      *format = f.format;
      return true;
    }
  }
  return false;
}

const char* Name(PackFormat format) {
  for (const FormatName& f : kFormats) {
    if (f.format == format) return f.name;
  }
  return "unknown";
}

const char* SupportedPackFormats() { return "bf16, fp32, int8, fp8_e4m3"; }

bool IsQuantized(PackFormat format) {
  return format == PackFormat::kInt8 || format == PackFormat::kFp8E4M3;
}

DType PackedDType(PackFormat format) {
  switch (format) {
    case PackFormat::kFp32:
      return DType::kFloat32;
    case PackFormat::kBf16:
      return DType::kBFloat16;
    case PackFormat::kInt8:
      return DType::kInt8;
    case PackFormat::kFp8E4M3:
      return DType::kUInt8;
  }
  return DType::kUInt8;
}

int64_t PackedPanels(int64_t n) { return cpu::PanelCount(n); }

int64_t PackedPanelElements(PackFormat format, int64_t k) {
  switch (format) {
    case PackFormat::kFp32:
      return cpu::PanelDwords(cpu::PanelDepth(k, 1));
    case PackFormat::kBf16:
      return 2 * cpu::PanelDwords(cpu::PanelDepth(k, 2));
    case PackFormat::kInt8:
      return 4 * cpu::PanelDwords(cpu::PanelDepth(k, 4) + 1);
    case PackFormat::kFp8E4M3:
      return 4 * cpu::PanelDwords(cpu::PanelDepth(k, 4));
  }
  return 0;
}

namespace cpu {
namespace {

struct Float32 {
  using Type = float;
  static float Get(float x) { return x; }
};
struct Float16 {
  using Type = uint16_t;
  static float Get(uint16_t x) { return DecodeHalf(x); }
};
struct BFloat16 {
  using Type = uint16_t;
  static float Get(uint16_t x) { return DecodeBf16(x); }
};

// The scale of a row: the largest magnitude over the format's largest value.
template <class T>
float RowScale(const typename T::Type* w, int64_t k, PackFormat format) {
  const bool is_int8 = format == PackFormat::kInt8;
  float amax = 0;
  bool nan = false;
  for (int64_t i = 0; i < k; ++i) {
    const float a = std::fabs(T::Get(w[i]));
    nan |= a != a;
    amax = a > amax ? a : amax;
  }
  const bool infinite = FloatBits(amax) == 0x7f800000u;
  if (infinite || (nan && is_int8)) return FloatFromBits(0x7fc00000u);
  if (amax == 0) return 1.0f;
  return amax / (is_int8 ? 127.0f : 448.0f);
}

inline int32_t QuantizeInt8(float r) {
  if (!(r > -127.0f)) return r != r ? 0 : -127;
  if (r > 127.0f) return 127;
  // Adding 1.5 * 2^23 rounds to nearest even and leaves the integer in the low bits.
  const float magic = 12582912.0f;
  return static_cast<int32_t>(FloatBits(r + magic)) - static_cast<int32_t>(FloatBits(magic));
}

// Byte of input k in its dword: k, k+2, k+1, k+3.
inline int64_t ByteOffset(int64_t k) {
  constexpr int kOrder[4] = {0, 2, 1, 3};
  return k / 4 * kPanelRowBytes + kOrder[k % 4];
}

// One output: column `col` of a zeroed panel.
template <class T>
void PackRow(const typename T::Type* w, int64_t k, float scale, PackFormat format, int64_t col,
             char* panel, int64_t depth) {
  switch (format) {
    case PackFormat::kFp32: {
      float* out = reinterpret_cast<float*>(panel) + col;
      for (int64_t i = 0; i < k; ++i) out[i * kPanelCols] = T::Get(w[i]);
      return;
    }
    case PackFormat::kBf16: {
      uint16_t* out = reinterpret_cast<uint16_t*>(panel) + 2 * col;
      for (int64_t i = 0; i < k; ++i) {
        out[i / 2 * 2 * kPanelCols + i % 2] = EncodeBf16(T::Get(w[i]));
      }
      return;
    }
    case PackFormat::kInt8: {
      int32_t sum = 0;
      for (int64_t i = 0; i < k; ++i) {
        const int32_t q = QuantizeInt8(T::Get(w[i]) / scale);
        sum += q;
        panel[col * 4 + ByteOffset(i)] = static_cast<char>(q);
      }
      // The caller's tensor of bytes may lie anywhere.
      std::memcpy(panel + depth * kPanelRowBytes + col * 4, &sum, 4);
      return;
    }
    case PackFormat::kFp8E4M3: {
      for (int64_t i = 0; i < k; ++i) {
        panel[col * 4 + ByteOffset(i)] =
            static_cast<char>(E4M3FN::Encode(T::Get(w[i]) / scale, /*saturate=*/true));
      }
      return;
    }
  }
}

template <class T>
void Pack(const LaunchContext& ctx, const PackWeightArgs& a) {
  const int64_t n = a.weight.dim(0);
  const int64_t k = a.weight.dim(1);
  const int64_t panel_bytes = PackedPanelElements(a.format, k) * ItemSize(PackedDType(a.format));
  const int64_t panel_stride = a.packed.stride(0) * ItemSize(a.packed.dtype);
  const int64_t depth = PanelDepth(k, 4);
  float* scale_out = a.scale_out.as_mutable<float>();
  ParallelFor(ctx.num_threads, PackedPanels(n), 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      char* panel = a.packed.as_mutable<char>() + p * panel_stride;
      if (panel_bytes > 0) std::memset(panel, 0, static_cast<size_t>(panel_bytes));
      const int64_t rows = n - p * kPanelCols < kPanelCols ? n - p * kPanelCols : kPanelCols;
      for (int64_t col = 0; col < rows; ++col) {
        const int64_t row = p * kPanelCols + col;
        const typename T::Type* w = a.weight.as<typename T::Type>() + row * a.weight.stride(0);
        float scale = 1.0f;
        if (a.scale.present()) {
          scale = a.scale.as<float>()[row];
        } else if (IsQuantized(a.format)) {
          scale = RowScale<T>(w, k, a.format);
        }
        scale_out[row] = scale;
        PackRow<T>(w, k, scale, a.format, col, panel, depth);
      }
    }
  });
}

Status RunPortable(const LaunchContext& ctx, const PackWeightArgs& a) {
  switch (a.weight.dtype) {
    case DType::kFloat32:
      Pack<Float32>(ctx, a);
      break;
    case DType::kFloat16:
      Pack<Float16>(ctx, a);
      break;
    default:
      Pack<BFloat16>(ctx, a);
  }
  return Status();
}

constexpr Variant<PackWeightArgs> kVariants[] = {
    {"portable", Isa::kBaseline, nullptr, RunPortable},
};

constexpr const char* kOp = "pack_weight";

Status Invalid(const char* arg, const std::string& expected, const TensorView& got) {
  return Status::InvalidArgument(Argument(kOp, arg) + "must " + expected + ", got " +
                                 ShapeText(got));
}

Status WrongType(const char* arg, DType expected, const TensorView& got) {
  return Status::TypeError(Argument(kOp, arg) + "must have dtype " + Name(expected) + ", got " +
                           Name(got.dtype));
}

// A float tensor [n] without gaps.
Status CheckScale(const char* arg, const TensorView& t, int64_t n) {
  if (t.dtype != DType::kFloat32) return WrongType(arg, DType::kFloat32, t);
  if (t.rank != 1 || t.dim(0) != n) {
    return Invalid(arg, "have shape [" + std::to_string(n) + "]", t);
  }
  return CheckRows(kOp, arg, t, 1);
}

Status Check(const PackWeightArgs& a) {
  KPT_RETURN_IF_ERROR(CheckRows(kOp, "weight", a.weight, 2));
  if (a.weight.rank != 2) return Invalid("weight", "have 2 dimensions [N, K]", a.weight);
  if (a.group_size != -1) {
    return Status::InvalidArgument(Argument(kOp, "group_size") +
                                   "must be -1 (one scale per output) for format '" +
                                   Name(a.format) + "', got " + std::to_string(a.group_size));
  }
  const int64_t n = a.weight.dim(0);
  const int64_t elements = PackedPanelElements(a.format, a.weight.dim(1));
  if (a.scale.present()) {
    if (!IsQuantized(a.format)) {
      return Status::InvalidArgument(Argument(kOp, "scale") + "must be None for format '" +
                                     Name(a.format) + "'");
    }
    KPT_RETURN_IF_ERROR(CheckScale("scale", a.scale, n));
  }
  if (a.packed.dtype != PackedDType(a.format)) {
    return WrongType("packed", PackedDType(a.format), a.packed);
  }
  if (a.packed.rank != 2 || a.packed.dim(0) != PackedPanels(n) || a.packed.dim(1) != elements ||
      (elements > 1 && a.packed.stride(1) != 1)) {
    return Invalid("packed",
                   "have shape [" + std::to_string(PackedPanels(n)) + ", " +
                       std::to_string(elements) + "] and a dense last dimension",
                   a.packed);
  }
  KPT_RETURN_IF_ERROR(CheckScale("scale_out", a.scale_out, n));
  const TensorView* const inputs[] = {&a.weight, &a.scale};
  const char* const names[] = {"weight", "scale"};
  for (int i = 0; i < 2; ++i) {
    KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "packed", a.packed, names[i], *inputs[i], false));
    KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "scale_out", a.scale_out, names[i], *inputs[i], false));
  }
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "packed", a.packed, "scale_out", a.scale_out, false));
  return CheckWritesOnce(kOp, "packed", a.packed);
}

}  // namespace

Status PackWeight(const LaunchContext& ctx, const PackWeightArgs& args) {
  KPT_RETURN_IF_ERROR(Check(args));
  return RunFirst(kOp, kVariants, ctx, args);
}

std::vector<VariantInfo> PackWeightVariants() { return ListVariants(kVariants); }

}  // namespace cpu
}  // namespace kpt
