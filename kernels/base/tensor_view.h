// TensorView: a borrowed, strided tensor. Owns nothing; valid during one call.
#ifndef KPT_KERNELS_BASE_TENSOR_VIEW_H_
#define KPT_KERNELS_BASE_TENSOR_VIEW_H_

#include <cstdint>

#include "kernels/base/dtype.h"

namespace kpt {

inline constexpr int kMaxRank = 8;

struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int rank = -1;  // -1: an optional tensor that was not given
  int64_t shape[kMaxRank] = {};
  int64_t strides[kMaxRank] = {};  // in elements

  bool present() const { return rank >= 0; }

  // Sizes and strides counted from the end: dim(-1) is the last one.
  int64_t dim(int i) const { return shape[i < 0 ? rank + i : i]; }
  int64_t stride(int i) const { return strides[i < 0 ? rank + i : i]; }

  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }

  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

struct MutableTensorView : TensorView {
  // The bindings only make one from a tensor that may be written.
  void* mutable_data() const { return const_cast<void*>(data); }
  template <class T>
  T* as_mutable() const {
    return static_cast<T*>(mutable_data());
  }
};

}  // namespace kpt

#endif  // KPT_KERNELS_BASE_TENSOR_VIEW_H_
