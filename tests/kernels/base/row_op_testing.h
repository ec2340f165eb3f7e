// What the tests of row-wise operators share: tensors inside sentinel-filled buffers, and the ISA
// levels of this machine.
#ifndef KPT_TESTS_KERNELS_BASE_ROW_OP_TESTING_H_
#define KPT_TESTS_KERNELS_BASE_ROW_OP_TESTING_H_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/base/cpu_features.h"
#include "kernels/base/float_codec.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/tensor_view.h"

namespace kpt::testing_util {

// A [rows, cols] tensor whose rows lie `gap` elements apart in a heap buffer of exactly the needed
// size (so that AddressSanitizer sees any step outside), gaps filled with a sentinel.
class Tensor {
 public:
  static constexpr unsigned char kSentinel = 0xa5;

  Tensor(DType dtype, int64_t rows, int64_t cols, int64_t gap = 0)
      : dtype_(dtype),
        rows_(rows),
        cols_(cols),
        stride_(cols + gap),
        bytes_(static_cast<size_t>(rows > 0 ? ((rows - 1) * stride_ + cols) * ItemSize(dtype) : 0),
               kSentinel) {}

  MutableTensorView view() {
    MutableTensorView v;
    v.data = bytes_.data();
    v.dtype = dtype_;
    v.rank = 2;
    v.shape[0] = rows_;
    v.shape[1] = cols_;
    v.strides[0] = stride_;
    v.strides[1] = 1;
    return v;
  }
  MutableTensorView row_view() {  // of rank 1
    MutableTensorView v = view();
    v.rank = 1;
    v.shape[0] = cols_;
    v.strides[0] = 1;
    return v;
  }

  float Get(int64_t r, int64_t c) const {
    const unsigned char* p = bytes_.data() + (r * stride_ + c) * ItemSize(dtype_);
    if (dtype_ == DType::kFloat32) {
      float x;
      std::memcpy(&x, p, 4);
      return x;
    }
    uint16_t code;
    std::memcpy(&code, p, 2);
    return dtype_ == DType::kFloat16 ? DecodeHalf(code) : DecodeBf16(code);
  }
  void Set(int64_t r, int64_t c, float x) {
    unsigned char* p = bytes_.data() + (r * stride_ + c) * ItemSize(dtype_);
    if (dtype_ == DType::kFloat32) {
      std::memcpy(p, &x, 4);
      return;
    }
    const uint16_t code = dtype_ == DType::kFloat16 ? EncodeHalf(x) : EncodeBf16(x);
    std::memcpy(p, &code, 2);
  }
  void Fill(std::mt19937* random, float mean, float deviation) {
    std::normal_distribution<float> normal(mean, deviation);
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = 0; c < cols_; ++c) Set(r, c, normal(*random));
    }
  }
  bool GapsUntouched() const {
    const int64_t size = ItemSize(dtype_);
    for (int64_t r = 0; r + 1 < rows_; ++r) {
      for (int64_t b = (r * stride_ + cols_) * size; b < (r + 1) * stride_ * size; ++b) {
        if (bytes_[static_cast<size_t>(b)] != kSentinel) return false;
      }
    }
    return true;
  }
  const std::vector<unsigned char>& bytes() const { return bytes_; }
  DType dtype() const { return dtype_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }

 private:
  DType dtype_;
  int64_t rows_, cols_, stride_;
  std::vector<unsigned char> bytes_;
};

// Half a unit in the last place of 1.
inline double Unit(DType dtype) {
  return dtype == DType::kFloat32 ? 0x1p-24 : dtype == DType::kFloat16 ? 0x1p-11 : 0x1p-8;
}

inline std::vector<Isa> Levels() {
  std::vector<Isa> levels;
  for (int i = 0; i <= static_cast<int>(DetectedIsa()); ++i) levels.push_back(static_cast<Isa>(i));
  return levels;
}

inline LaunchContext At(Isa isa, LaunchRecord* record = nullptr) {
  LaunchContext ctx;
  ctx.isa = isa;
  ctx.record = record;
  return ctx;
}

inline constexpr DType kFloats[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
inline constexpr int64_t kWidths[] = {1,  2,  7,  15,  16,  17,   31,  33,
                                      63, 64, 65, 130, 384, 1000, 5003};

}  // namespace kpt::testing_util

#endif  // KPT_TESTS_KERNELS_BASE_ROW_OP_TESTING_H_
