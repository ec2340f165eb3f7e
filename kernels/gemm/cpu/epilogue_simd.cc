// EmitRows: from sums to y, or to the gradient of t. Compiled once per portable instruction set.
#include "kernels/base/simd_io.h"
#include "kernels/base/simd_math.h"
#include "kernels/gemm/cpu/panel_gemm.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

// The bias and the scale of one vector of columns.
struct Affine {
  FloatVec scale;
  FloatVec bias;

  FloatVec Apply(FloatVec sum) const { return hn::MulAdd(sum, scale, bias); }
};

template <class T>
FloatVec LoadSome(const void* base, int64_t at, int64_t count) {
  const T* p = static_cast<const T*>(base) + at;
  return count >= kLanes ? Load(p) : LoadN(p, count);
}

Affine GetAffine(const Epilogue& e, int64_t column, int64_t count) {
  Affine a = {Set(1.0f), Set(0.0f)};
  if (e.scale != nullptr) a.scale = LoadSome<float>(e.scale, column, count);
  if (e.bias != nullptr) {
    switch (e.bias_dtype) {
      case DType::kFloat16:
        a.bias = LoadSome<Half>(e.bias, column, count);
        break;
      case DType::kBFloat16:
        a.bias = LoadSome<BFloat16>(e.bias, column, count);
        break;
      default:
        a.bias = LoadSome<float>(e.bias, column, count);
    }
  }
  return a;
}

inline void StoreWhole(FloatVec v, float* p) { hn::StoreU(v, FloatTag(), p); }
inline void StoreWhole(FloatVec v, Half* p) { hn::StoreU(Narrow(v, p), HalfTag(), p); }
inline void StoreWhole(FloatVec v, BFloat16* p) { hn::StoreU(Narrow(v, p), BFloat16Tag(), p); }

template <class T>
void StoreSome(FloatVec v, T* to, int64_t count) {
  if (count == kLanes) {
    StoreWhole(v, to);
  } else {
    StoreN(v, to, count);
  }
}

template <ActivationKind kKind, bool kGated, class T>
void EmitAs(const Epilogue& e, const float* sums, const float* up, int64_t ld, int64_t m0,
            int64_t rows, int64_t n0, int64_t cols) {
  constexpr bool kFast = sizeof(T) == 2 && !std::is_same_v<T, Half>;
  T* y = static_cast<T*>(e.y) + m0 * e.ldy + n0;
  int64_t j = 0;
  // Two vectors of columns at a time where there are, so that narrow results fill whole registers.
  for (; j + 2 * kLanes <= cols; j += 2 * kLanes) {
    const Affine a0 = GetAffine(e, n0 + j, kLanes);
    const Affine a1 = GetAffine(e, n0 + j + kLanes, kLanes);
    Affine u0 = a0, u1 = a1;
    if constexpr (kGated) {
      u0 = GetAffine(e, e.up_columns() + n0 + j, kLanes);
      u1 = GetAffine(e, e.up_columns() + n0 + j + kLanes, kLanes);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const float* s = sums + r * ld + j;
      FloatVec v0 = Activate<kKind, kFast>(a0.Apply(Load(s)));
      FloatVec v1 = Activate<kKind, kFast>(a1.Apply(Load(s + kLanes)));
      if constexpr (kGated) {
        const float* t = up + r * ld + j;
        v0 = hn::Mul(v0, u0.Apply(Load(t)));
        v1 = hn::Mul(v1, u1.Apply(Load(t + kLanes)));
      }
      StorePair<false>(v0, v1, y + r * e.ldy + j);
    }
  }
  for (; j < cols; j += kLanes) {
    const int64_t count = cols - j < kLanes ? cols - j : kLanes;
    const Affine a = GetAffine(e, n0 + j, count);
    Affine u = a;
    if constexpr (kGated) u = GetAffine(e, e.up_columns() + n0 + j, count);
    for (int64_t r = 0; r < rows; ++r) {
      FloatVec v = Activate<kKind, kFast>(a.Apply(Load(sums + r * ld + j)));
      if constexpr (kGated) v = hn::Mul(v, u.Apply(Load(up + r * ld + j)));
      StoreSome(v, y + r * e.ldy + j, count);
    }
  }
}

// What lies beside y has its dtype.
FloatVec LoadLikeY(const Epilogue& e, const void* p, int64_t at, int64_t count) {
  switch (e.y_dtype) {
    case DType::kFloat16:
      return LoadSome<Half>(p, at, count);
    case DType::kBFloat16:
      return LoadSome<BFloat16>(p, at, count);
    default:
      return LoadSome<float>(p, at, count);
  }
}

void StoreLikeY(const Epilogue& e, FloatVec v, void* p, int64_t at, int64_t count) {
  switch (e.y_dtype) {
    case DType::kFloat16:
      return StoreSome(v, static_cast<Half*>(p) + at, count);
    case DType::kBFloat16:
      return StoreSome(v, static_cast<BFloat16*>(p) + at, count);
    default:
      return StoreSome(v, static_cast<float*>(p) + at, count);
  }
}

// t of the columns of the product from `column` on.
void EmitT(const Epilogue& e, const float* sums, int64_t ld, int64_t m0, int64_t rows,
           int64_t column, int64_t cols) {
  for (int64_t j = 0; j < cols; j += kLanes) {
    const int64_t count = cols - j < kLanes ? cols - j : kLanes;
    const Affine a = GetAffine(e, column + j, count);
    for (int64_t r = 0; r < rows; ++r) {
      StoreLikeY(e, a.Apply(Load(sums + r * ld + j)), e.t, (m0 + r) * e.ldt + column + j, count);
    }
  }
}

// The gradient of t. One instantiation serves all dtypes, with the exact activations: beside the
// three products of a gradient this is little work.
template <ActivationKind kKind, bool kGated>
void EmitGrad(const Epilogue& e, const float* sums, const float* up, int64_t ld, int64_t m0,
              int64_t rows, int64_t n0, int64_t cols) {
  for (int64_t j = 0; j < cols; j += kLanes) {
    const int64_t count = cols - j < kLanes ? cols - j : kLanes;
    const Affine a = GetAffine(e, n0 + j, count);
    Affine u = a;
    if constexpr (kGated) u = GetAffine(e, e.up_columns() + n0 + j, count);
    for (int64_t r = 0; r < rows; ++r) {
      const FloatVec grad = LoadLikeY(e, e.grad, (m0 + r) * e.ldgrad + n0 + j, count);
      const int64_t kept = (m0 + r) * e.ldt + n0 + j;
      const FloatVec t =
          e.t != nullptr ? LoadLikeY(e, e.t, kept, count) : a.Apply(Load(sums + r * ld + j));
      const int64_t at = (m0 + r) * e.ldy + n0 + j;
      if constexpr (kGated) {
        const FloatVec v = e.t != nullptr ? LoadLikeY(e, e.t, kept + e.up_columns(), count)
                                          : u.Apply(Load(up + r * ld + j));
        StoreLikeY(e, Backpropagate<kKind, false>(hn::Mul(grad, v), t), e.y, at, count);
        StoreLikeY(e, hn::Mul(grad, Activate<kKind, false>(t)), e.y, at + e.up_columns(), count);
      } else {
        StoreLikeY(e, Backpropagate<kKind, false>(grad, t), e.y, at, count);
      }
    }
  }
}

template <ActivationKind kKind, bool kGated>
void EmitKind(const Epilogue& e, const float* sums, const float* up, int64_t ld, int64_t m0,
              int64_t rows, int64_t n0, int64_t cols) {
  if constexpr (kKind != ActivationKind::kNone) {
    if (e.grad != nullptr) return EmitGrad<kKind, kGated>(e, sums, up, ld, m0, rows, n0, cols);
  }
  switch (e.y_dtype) {
    case DType::kFloat16:
      EmitAs<kKind, kGated, Half>(e, sums, up, ld, m0, rows, n0, cols);
      break;
    case DType::kBFloat16:
      EmitAs<kKind, kGated, BFloat16>(e, sums, up, ld, m0, rows, n0, cols);
      break;
    default:
      EmitAs<kKind, kGated, float>(e, sums, up, ld, m0, rows, n0, cols);
  }
}

// y += sums.
void AddRows(const Epilogue& e, const float* sums, int64_t ld, int64_t m0, int64_t rows, int64_t n0,
             int64_t cols) {
  for (int64_t r = 0; r < rows; ++r) {
    float* y = static_cast<float*>(e.y) + (m0 + r) * e.ldy + n0;
    MapRow<false>([](FloatVec a, FloatVec b) HWY_ATTR { return hn::Add(a, b); }, cols, y, y,
                  sums + r * ld);
  }
}

}  // namespace

void EmitRows(const Epilogue& e, const float* sums, const float* up, int64_t ld, int64_t m0,
              int64_t rows, int64_t n0, int64_t cols) {
  if (e.accumulate) return AddRows(e, sums, ld, m0, rows, n0, cols);
  if (e.t != nullptr && e.grad == nullptr) {
    EmitT(e, sums, ld, m0, rows, n0, cols);
    if (up != nullptr && IsGated(e.activation))
      EmitT(e, up, ld, m0, rows, e.up_columns() + n0, cols);
  }
  switch (e.activation) {
    case ActivationKind::kRelu:
      return EmitKind<ActivationKind::kRelu, false>(e, sums, up, ld, m0, rows, n0, cols);
    case ActivationKind::kGelu:
      return EmitKind<ActivationKind::kGelu, false>(e, sums, up, ld, m0, rows, n0, cols);
    case ActivationKind::kGeluTanh:
      return EmitKind<ActivationKind::kGeluTanh, false>(e, sums, up, ld, m0, rows, n0, cols);
    case ActivationKind::kSilu:
      return EmitKind<ActivationKind::kSilu, false>(e, sums, up, ld, m0, rows, n0, cols);
    case ActivationKind::kSwiglu:
      return EmitKind<ActivationKind::kSilu, true>(e, sums, up, ld, m0, rows, n0, cols);
    case ActivationKind::kGeglu:
      return EmitKind<ActivationKind::kGelu, true>(e, sums, up, ld, m0, rows, n0, cols);
    default:  // the checks let nothing else through
      return EmitKind<ActivationKind::kNone, false>(e, sums, up, ld, m0, rows, n0, cols);
  }
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();
