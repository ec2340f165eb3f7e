// Packed weights as their documentation describes them (kernels/gemm/pack_weight.h).
#ifndef KPT_TESTS_KERNELS_GEMM_PACKED_TESTING_H_
#define KPT_TESTS_KERNELS_GEMM_PACKED_TESTING_H_

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/gemm/pack_weight.h"
#include "tests/kernels/base/row_op_testing.h"

namespace kpt::testing_util {

inline constexpr PackFormat kPackFormats[] = {PackFormat::kFp32,    PackFormat::kBf16,
                                              PackFormat::kInt8,    PackFormat::kFp8E4M3,
                                              PackFormat::kFp8E5M2, PackFormat::kInt4};

inline bool HasInt8Compute(PackFormat format) {
  return format == PackFormat::kInt8 || format == PackFormat::kInt4;
}

// How the inputs of an int4 weight are grouped.
struct Groups {
  int64_t size = -1;
  bool zero_points = false;
};

inline TensorView Row(const std::vector<float>& values) {
  TensorView v;
  v.data = values.data();
  v.rank = 1;
  v.shape[0] = static_cast<int64_t>(values.size());
  v.strides[0] = 1;
  return v;
}

// A packed weight and where the documentation says its parts lie.
class Packed {
 public:
  Packed(PackFormat format, int64_t n, int64_t k, int64_t gap = 0, Groups groups = {})
      : format_(format),
        n_(n),
        k_(k),
        groups_(groups),
        elements_(PackedPanelElements(format, k, groups.zero_points ? group_count() : 0)),
        stride_(elements_ + gap),
        bytes_(static_cast<size_t>(PackedPanels(n) * stride_ * item()), '\x5a'),
        scale_(static_cast<size_t>(n * group_count()), -1.0f) {}

  Groups groups() const { return groups_; }
  int64_t group_count() const { return PackedGroups(k_, groups_.size); }

  MutableTensorView view() {
    MutableTensorView v;
    v.data = bytes_.data();
    v.dtype = PackedDType(format_);
    v.rank = 2;
    v.shape[0] = PackedPanels(n_);
    v.shape[1] = elements_;
    v.strides[0] = stride_;
    v.strides[1] = 1;
    return v;
  }
  MutableTensorView scale() {
    MutableTensorView v;
    static_cast<TensorView&>(v) = Row(scale_);
    if (format_ == PackFormat::kInt4) {
      v.rank = 2;
      v.shape[0] = group_count();
      v.shape[1] = v.strides[0] = n_;
      v.strides[1] = 1;
    }
    return v;
  }
  float ScaleOf(int64_t n, int64_t k = 0) const {
    return scale_[static_cast<size_t>(GroupOf(k) * n_ + n)];
  }
  // Of an output and an input that are not padding; 8 where none are stored.
  int ZeroOf(int64_t n, int64_t k) const {
    if (!groups_.zero_points) return 8;
    const char* table =
        bytes_.data() + n / 64 * stride_ + PackedPanelElements(format_, k_) + GroupOf(k) * 64;
    return *reinterpret_cast<const uint8_t*>(table + n % 64);
  }

  // The stored value of input k of output n; both may lie in the padding.
  double Stored(int64_t n, int64_t k) const {
    const int64_t per_dword = format_ == PackFormat::kFp32   ? 1
                              : format_ == PackFormat::kBf16 ? 2
                              : format_ == PackFormat::kInt4 ? 8
                                                             : 4;
    const int64_t place[] = {0, 2, 1, 3};
    if (format_ == PackFormat::kInt4) {
      const char byte =
          bytes_[static_cast<size_t>(n / 64 * stride_ + (k / 8 * 64 + n % 64) * 4 + place[k % 4])];
      const int nibble = (k % 8 < 4 ? byte : byte >> 4) & 15;
      return nibble < 8 ? nibble : nibble - 16;
    }
    const int64_t within = per_dword == 4 ? place[k % 4] : k % per_dword;
    const char* at = bytes_.data() + n / 64 * stride_ * item() + (k / per_dword * 64 + n % 64) * 4 +
                     within * (4 / per_dword);
    float wide;
    uint16_t half;
    switch (format_) {
      case PackFormat::kFp32:
        std::memcpy(&wide, at, 4);
        return wide;
      case PackFormat::kBf16:
        std::memcpy(&half, at, 2);
        return DecodeBf16(half);
      case PackFormat::kInt8:
        return *reinterpret_cast<const int8_t*>(at);
      case PackFormat::kFp8E4M3:
        return E4M3FN::Decode(*reinterpret_cast<const uint8_t*>(at));
      default:
        return E5M2::Decode(*reinterpret_cast<const uint8_t*>(at));
    }
  }
  int32_t Sum(int64_t n) const {
    const char* end = bytes_.data() + (n / 64 * stride_ + elements_) * item();
    int32_t sum;
    std::memcpy(&sum, end - 256 + n % 64 * 4, 4);
    return sum;
  }
  double Weight(int64_t n, int64_t k) const {
    if (format_ != PackFormat::kInt4) return Stored(n, k) * ScaleOf(n);
    return (Stored(n, k) + 8 - ZeroOf(n, k)) * ScaleOf(n, k);
  }

  int64_t padded_n() const { return PackedPanels(n_) * 64; }
  int64_t padded_k() const {
    const int64_t rows = PackedPanelElements(format_, k_) * item() / 256;
    if (format_ == PackFormat::kInt8) return (rows - 1) * 4;
    return format_ == PackFormat::kInt4 ? rows * 8 : rows * 4 / item();
  }

 private:
  int64_t item() const { return ItemSize(PackedDType(format_)); }
  int64_t GroupOf(int64_t k) const { return groups_.size < 0 ? 0 : k / groups_.size; }

  PackFormat format_;
  int64_t n_, k_;
  Groups groups_;
  int64_t elements_, stride_;
  std::vector<char> bytes_;
  std::vector<float> scale_;
};

inline Status Pack(const Tensor& weight, PackFormat format, Packed* packed,
                   const std::vector<float>* scale = nullptr, int threads = 1) {
  cpu::PackWeightArgs args;
  args.packed = packed->view();
  args.scale_out = packed->scale();
  args.weight = const_cast<Tensor&>(weight).view();
  args.format = format;
  args.group_size = packed->groups().size;
  args.symmetric = !packed->groups().zero_points;
  if (scale != nullptr) {
    args.scale = packed->scale();
    args.scale.data = scale->data();
  }
  LaunchContext ctx = At(Isa::kBaseline);
  ctx.num_threads = threads;
  return cpu::PackWeight(ctx, args);
}

inline Tensor Weights(DType dtype, int64_t n, int64_t k) {
  std::mt19937 random(static_cast<unsigned>(100 * n + k));
  Tensor weight(dtype, n, k, 3);
  weight.Fill(&random, 0, 1 / std::sqrt(1 + static_cast<float>(k)));
  return weight;
}

}  // namespace kpt::testing_util

#endif  // KPT_TESTS_KERNELS_GEMM_PACKED_TESTING_H_
