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

inline constexpr PackFormat kPackFormats[] = {PackFormat::kFp32, PackFormat::kBf16,
                                              PackFormat::kInt8, PackFormat::kFp8E4M3};

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
  Packed(PackFormat format, int64_t n, int64_t k, int64_t gap = 0)
      : format_(format),
        n_(n),
        k_(k),
        elements_(PackedPanelElements(format, k)),
        stride_(elements_ + gap),
        bytes_(static_cast<size_t>(PackedPanels(n) * stride_ * item()), '\x5a'),
        scale_(static_cast<size_t>(n), -1.0f) {}

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
    return v;
  }
  float ScaleOf(int64_t n) const { return scale_[static_cast<size_t>(n)]; }

  // The stored value of input k of output n; both may lie in the padding.
  double Stored(int64_t n, int64_t k) const {
    const int64_t per_dword = format_ == PackFormat::kFp32   ? 1
                              : format_ == PackFormat::kBf16 ? 2
                                                             : 4;
    const int64_t place[] = {0, 2, 1, 3};
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
      default:
        return E4M3FN::Decode(*reinterpret_cast<const uint8_t*>(at));
    }
  }
  int32_t Sum(int64_t n) const {
    const char* end = bytes_.data() + (n / 64 * stride_ + elements_) * item();
    int32_t sum;
    std::memcpy(&sum, end - 256 + n % 64 * 4, 4);
    return sum;
  }
  double Weight(int64_t n, int64_t k) const { return Stored(n, k) * ScaleOf(n); }

  int64_t padded_n() const { return PackedPanels(n_) * 64; }
  int64_t padded_k() const {
    const int64_t rows = elements_ * item() / 256 - (format_ == PackFormat::kInt8 ? 1 : 0);
    return rows * 4 / item();
  }

 private:
  int64_t item() const { return ItemSize(PackedDType(format_)); }

  PackFormat format_;
  int64_t n_, k_, elements_, stride_;
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
  if (scale != nullptr) args.scale = Row(*scale);
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
