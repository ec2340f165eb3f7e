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
    {"bf16", PackFormat::kBf16},        {"fp32", PackFormat::kFp32},
    {"int8", PackFormat::kInt8},        {"fp8_e4m3", PackFormat::kFp8E4M3},
    {"fp8_e5m2", PackFormat::kFp8E5M2}, {"int4", PackFormat::kInt4},
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

const char* SupportedPackFormats() { return "bf16, fp32, int8, fp8_e4m3, fp8_e5m2, int4"; }

bool IsQuantized(PackFormat format) {
  return format != PackFormat::kFp32 && format != PackFormat::kBf16;
}

bool IsGroupSize(PackFormat format, int64_t group_size) {
  if (group_size == -1) return true;
  return format == PackFormat::kInt4 && (group_size == 32 || group_size == 64 || group_size == 128);
}

int64_t PackedGroups(int64_t k, int64_t group_size) {
  return group_size < 0 ? 1 : (k + group_size - 1) / group_size;
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
    case PackFormat::kFp8E5M2:
    case PackFormat::kInt4:
      return DType::kUInt8;
  }
  return DType::kUInt8;
}

int64_t PackedPanels(int64_t n) { return cpu::PanelCount(n); }

int64_t PackedPanelElements(PackFormat format, int64_t k, int64_t zero_groups) {
  switch (format) {
    case PackFormat::kFp32:
      return cpu::PanelDwords(cpu::PanelDepth(k, 1));
    case PackFormat::kBf16:
      return 2 * cpu::PanelDwords(cpu::PanelDepth(k, 2));
    case PackFormat::kInt8:
      return 4 * cpu::PanelDwords(cpu::PanelDepth(k, 4) + 1);
    case PackFormat::kFp8E4M3:
    case PackFormat::kFp8E5M2:
      return 4 * cpu::PanelDwords(cpu::PanelDepth(k, 4));
    case PackFormat::kInt4:
      return 4 * cpu::PanelDwords(cpu::PanelDepth(k, 8)) + zero_groups * cpu::kPanelCols;
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

float LargestValue(PackFormat format) {
  switch (format) {
    case PackFormat::kInt8:
      return 127.0f;
    case PackFormat::kInt4:
      return 7.5f;
    case PackFormat::kFp8E4M3:
      return 448.0f;
    default:
      return 57344.0f;
  }
}

// The scale of k weights: the largest magnitude over what the format has for it.
template <class T>
float ScaleOf(const typename T::Type* w, int64_t k, PackFormat format) {
  const bool has_nan = format == PackFormat::kFp8E4M3 || format == PackFormat::kFp8E5M2;
  float amax = 0;
  bool nan = false;
  for (int64_t i = 0; i < k; ++i) {
    const float a = std::fabs(T::Get(w[i]));
    nan |= a != a;
    amax = a > amax ? a : amax;
  }
  const bool infinite = FloatBits(amax) == 0x7f800000u;
  if (infinite || (nan && !has_nan)) return FloatFromBits(0x7fc00000u);
  if (amax == 0) return 1.0f;
  return amax / LargestValue(format);
}

// Nearest even, of |r| < 2^22: adding 1.5 * 2^23 leaves the integer in the low bits.
inline int32_t Round(float r) {
  const float magic = 12582912.0f;
  return static_cast<int32_t>(FloatBits(r + magic)) - static_cast<int32_t>(FloatBits(magic));
}

inline int32_t QuantizeInt8(float r) {
  if (!(r > -127.0f)) return r != r ? 0 : -127;
  return r > 127.0f ? 127 : Round(r);
}

inline int32_t QuantizeInt4(float r) {  // to 0 .. 15
  if (!(r > 0.0f)) return r != r ? 8 : 0;
  return r > 15.0f ? 15 : Round(r);
}

// Scale and zero point of a group of an int4 weight.
struct Affine4 {
  float scale;
  int32_t zero;
};
template <class T>
Affine4 AffineOf(const typename T::Type* w, int64_t k) {
  float lo = 0, hi = 0;
  bool nan = false;
  for (int64_t i = 0; i < k; ++i) {
    const float v = T::Get(w[i]);
    nan |= v != v;
    lo = v < lo ? v : lo;
    hi = v > hi ? v : hi;
  }
  const float scale = hi / 15.0f - lo / 15.0f;
  if (nan || FloatBits(scale) == 0x7f800000u) return {FloatFromBits(0x7fc00000u), 0};
  if (scale == 0) return {1.0f, 0};
  const float zero = -lo / scale;
  return {scale, zero > 15.0f ? 15 : Round(zero)};
}

bool HasZeroPoints(const PackWeightArgs& a) { return !a.symmetric || a.zero_point.present(); }

// Byte of input k in its dword: k, k+2, k+1, k+3.
inline int64_t ByteOffset(int64_t k) {
  constexpr int kOrder[4] = {0, 2, 1, 3};
  return k / 4 * kPanelRowBytes + kOrder[k % 4];
}

// One output of an int4 weight: column `col` of a zeroed panel, its scales and its zero points.
template <class T>
void PackInt4Row(const PackWeightArgs& a, int64_t row, int64_t col, char* panel) {
  const int64_t k = a.weight.dim(1);
  const typename T::Type* w = a.weight.as<typename T::Type>() + row * a.weight.stride(0);
  const int64_t groups = PackedGroups(k, a.group_size);
  char* zeros = panel + PanelDepth(k, 8) * kPanelRowBytes + col;
  for (int64_t j = 0; j < groups; ++j) {
    const int64_t begin = groups == 1 ? 0 : j * a.group_size;
    const int64_t end = groups == 1 || k - begin < a.group_size ? k : begin + a.group_size;
    Affine4 affine = {0, 8};
    if (!a.symmetric) {
      affine = AffineOf<T>(w + begin, end - begin);
    } else if (a.scale.present()) {
      affine.scale = a.scale.as<float>()[j * a.scale.stride(0) + row];
      if (a.zero_point.present()) {
        affine.zero = a.zero_point.as<uint8_t>()[j * a.zero_point.stride(0) + row];
      }
    } else {
      affine.scale = ScaleOf<T>(w + begin, end - begin, a.format);
    }
    a.scale_out.as_mutable<float>()[j * a.scale_out.stride(0) + row] = affine.scale;
    if (HasZeroPoints(a)) zeros[j * kPanelCols] = static_cast<char>(affine.zero);
    for (int64_t i = begin; i < end; ++i) {
      const float code = T::Get(w[i]) / affine.scale + static_cast<float>(affine.zero);
      const int32_t q = (QuantizeInt4(code) - 8) & 15;
      char* byte = panel + i / 8 * kPanelRowBytes + col * 4 + ByteOffset(i % 4);
      *byte = static_cast<char>(*byte | q << (i % 8 < 4 ? 0 : 4));
    }
  }
}

// One output of another format: column `col` of a zeroed panel.
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
    case PackFormat::kFp8E5M2: {
      for (int64_t i = 0; i < k; ++i) {
        panel[col * 4 + ByteOffset(i)] =
            static_cast<char>(E5M2::Encode(T::Get(w[i]) / scale, /*saturate=*/true));
      }
      return;
    }
    case PackFormat::kInt4:
      return;  // PackInt4Row
  }
}

template <class T>
void Pack(const LaunchContext& ctx, const PackWeightArgs& a) {
  const int64_t n = a.weight.dim(0);
  const int64_t k = a.weight.dim(1);
  const int64_t panel_bytes = a.packed.dim(1) * ItemSize(a.packed.dtype);
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
        if (a.format == PackFormat::kInt4) {
          PackInt4Row<T>(a, row, col, panel);
          continue;
        }
        const typename T::Type* w = a.weight.as<typename T::Type>() + row * a.weight.stride(0);
        float scale = 1.0f;
        if (a.scale.present()) {
          scale = a.scale.as<float>()[row];
        } else if (IsQuantized(a.format)) {
          scale = ScaleOf<T>(w, k, a.format);
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

// [n], or [groups, n] for int4, with a dense last dimension.
Status CheckPerOutput(const char* arg, const TensorView& t, DType dtype, const PackWeightArgs& a) {
  if (t.dtype != dtype) return WrongType(arg, dtype, t);
  const int64_t n = a.weight.dim(0);
  const bool grouped = a.format == PackFormat::kInt4;
  const int64_t groups = PackedGroups(a.weight.dim(1), a.group_size);
  if (t.rank != (grouped ? 2 : 1) || t.dim(-1) != n || (grouped && t.dim(0) != groups) ||
      (n > 1 && t.stride(-1) != 1)) {
    return Invalid(arg,
                   "have shape [" + (grouped ? std::to_string(groups) + ", " : std::string()) +
                       std::to_string(n) + "] and a dense last dimension",
                   t);
  }
  return Status();
}

Status CheckZeroPoint(const PackWeightArgs& a) {
  if (a.format != PackFormat::kInt4 && (a.zero_point.present() || !a.symmetric)) {
    return Status::InvalidArgument(Argument(kOp, a.symmetric ? "zero_point" : "symmetric") +
                                   "must be " + (a.symmetric ? "None" : "True") + " for format '" +
                                   Name(a.format) + "'");
  }
  if (a.scale.present() && !a.symmetric) {
    return Status::InvalidArgument(Argument(kOp, "symmetric") +
                                   "must be True for a given scale: 'zero_point' belongs to it");
  }
  if (!a.zero_point.present()) return Status();
  if (!a.scale.present()) {
    return Status::InvalidArgument(Argument(kOp, "zero_point") +
                                   "must be None without 'scale', which it belongs to");
  }
  KPT_RETURN_IF_ERROR(CheckPerOutput("zero_point", a.zero_point, DType::kUInt8, a));
  for (int64_t j = 0; j < a.zero_point.dim(0); ++j) {
    const uint8_t* row = a.zero_point.as<uint8_t>() + j * a.zero_point.stride(0);
    for (int64_t n = 0; n < a.zero_point.dim(1); ++n) {
      if (row[n] <= kLargestZeroPoint) continue;
      return Status::InvalidArgument(Argument(kOp, "zero_point") + "must be at most " +
                                     std::to_string(kLargestZeroPoint) + ", got " +
                                     std::to_string(row[n]));
    }
  }
  return Status();
}

Status Check(const PackWeightArgs& a) {
  KPT_RETURN_IF_ERROR(CheckRows(kOp, "weight", a.weight, 2));
  if (a.weight.rank != 2) return Invalid("weight", "have 2 dimensions [N, K]", a.weight);
  if (!IsGroupSize(a.format, a.group_size)) {
    const bool grouped = a.format == PackFormat::kInt4;
    return Status::InvalidArgument(Argument(kOp, "group_size") +
                                   "must be -1 (one scale per output" +
                                   (grouped ? "), 32, 64 or 128" : ")") + " for format '" +
                                   Name(a.format) + "', got " + std::to_string(a.group_size));
  }
  const int64_t n = a.weight.dim(0);
  const int64_t k = a.weight.dim(1);
  if (a.scale.present()) {
    if (!IsQuantized(a.format)) {
      return Status::InvalidArgument(Argument(kOp, "scale") + "must be None for format '" +
                                     Name(a.format) + "'");
    }
    KPT_RETURN_IF_ERROR(CheckPerOutput("scale", a.scale, DType::kFloat32, a));
  }
  KPT_RETURN_IF_ERROR(CheckZeroPoint(a));
  const int64_t elements =
      PackedPanelElements(a.format, k, HasZeroPoints(a) ? PackedGroups(k, a.group_size) : 0);
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
  KPT_RETURN_IF_ERROR(CheckPerOutput("scale_out", a.scale_out, DType::kFloat32, a));
  const TensorView* const inputs[] = {&a.weight, &a.scale, &a.zero_point};
  const char* const names[] = {"weight", "scale", "zero_point"};
  for (int i = 0; i < 3; ++i) {
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
