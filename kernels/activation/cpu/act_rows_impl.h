// ActRows and its like, for the instruction set that the including file is compiled for.
#ifndef KPT_KERNELS_ACTIVATION_CPU_ACT_ROWS_IMPL_H_
#define KPT_KERNELS_ACTIVATION_CPU_ACT_ROWS_IMPL_H_

#include <type_traits>

#include "kernels/activation/cpu/act_rows.h"
#include "kernels/base/simd_io.h"
#include "kernels/base/simd_math.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

// out = f(x), or f(x, other), over the pieces.
template <class T, bool kBinary, bool kStream, class F>
void Pieces(const ActPieces& job, int64_t begin, int64_t end, const F& f) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = i / job.pieces_per_row;
    const int64_t start = (i - row * job.pieces_per_row) * ActPieces::kPiece;
    const int64_t rest = job.cols - start;
    const int64_t n = rest < ActPieces::kPiece ? rest : ActPieces::kPiece;
    int64_t at[ActJob::kNumTensors];
    RowOffsets(job.plan, row, at);
    T* out = static_cast<T*>(job.out) + at[ActJob::kOut] + start;
    const T* x = static_cast<const T*>(job.x) + at[ActJob::kX] + start;
    if constexpr (kBinary) {
      const T* other = static_cast<const T*>(job.other) + at[ActJob::kOther] + start;
      MapRow<kStream>(f, n, out, x, other);
    } else {
      MapRow<kStream>(f, n, out, x);
    }
  }
}

template <class T, bool kBinary, class F>
void Pieces(const ActPieces& job, int64_t begin, int64_t end, const F& f) {
  if (job.stream) {
    Pieces<T, kBinary, true>(job, begin, end, f);
  } else {
    Pieces<T, kBinary, false>(job, begin, end, f);
  }
}

template <class T>
constexpr bool kFastFor = std::is_same_v<T, BFloat16>;

template <class T>
void Forward(const ActPieces& job, int64_t begin, int64_t end) {
  SwitchKind(job.kind, [&](auto kind) {
    Pieces<T, false>(job, begin, end, [](FloatVec x) HWY_ATTR {
      return Activate<decltype(kind)::value, kFastFor<T>>(x);
    });
  });
}

template <class T>
void Backward(const ActPieces& job, int64_t begin, int64_t end) {
  SwitchKind(job.kind, [&](auto kind) {
    Pieces<T, true>(job, begin, end, [](FloatVec x, FloatVec grad) HWY_ATTR {
      return Backpropagate<decltype(kind)::value, kFastFor<T>>(grad, x);
    });
  });
}

template <class T>
void Multiply(const ActPieces& job, int64_t begin, int64_t end) {
  SwitchKind(job.kind, [&](auto kind) {
    Pieces<T, true>(job, begin, end, [](FloatVec gate, FloatVec up) HWY_ATTR {
      return hn::Mul(Activate<decltype(kind)::value, kFastFor<T>>(gate), up);
    });
  });
}

// grad_gate and grad_up over one piece: two results from one exponential.
template <ActivationKind kKind, bool kStream, class T>
void MultiplyBackwardPiece(int64_t n, const T* gate, const T* up, const T* grad, T* grad_gate,
                           T* grad_up) {
  const auto f = [](FloatVec x, FloatVec u, FloatVec g, FloatVec* dx, FloatVec* du) HWY_ATTR {
    FloatVec value, slope;
    ActivateWithGrad<kKind, kFastFor<T>>(x, &value, &slope);
    const FloatVec product = hn::Mul(g, u);
    // As in Backpropagate: where relu is flat, an infinite gradient gives 0 too.
    *dx = kKind == ActivationKind::kRelu ? hn::IfThenZeroElse(hn::Le(x, Set(0.0f)), product)
                                         : hn::Mul(product, slope);
    *du = hn::Mul(g, value);
  };
  FloatVec da, db, ua, ub;
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    f(LoadOne<0>(gate + i), LoadOne<0>(up + i), LoadOne<0>(grad + i), &da, &ua);
    f(LoadOne<1>(gate + i), LoadOne<1>(up + i), LoadOne<1>(grad + i), &db, &ub);
    StoreBoth<kStream>(da, db, grad_gate + i);
    StoreBoth<kStream>(ua, ub, grad_up + i);
  }
  for (; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    f(LoadN(gate + i, m), LoadN(up + i, m), LoadN(grad + i, m), &da, &ua);
    StoreN(da, grad_gate + i, m);
    StoreN(ua, grad_up + i, m);
  }
}

template <class T>
void MultiplyBackward(const ActPieces& job, int64_t begin, int64_t end) {
  SwitchKind(job.kind, [&](auto kind) {
    constexpr ActivationKind kKind = decltype(kind)::value;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / job.pieces_per_row;
      const int64_t start = (i - row * job.pieces_per_row) * ActPieces::kPiece;
      const int64_t rest = job.cols - start;
      const int64_t n = rest < ActPieces::kPiece ? rest : ActPieces::kPiece;
      int64_t at[ActJob::kNumTensors];
      RowOffsets(job.plan, row, at);
      const T* gate = static_cast<const T*>(job.x) + at[ActJob::kX] + start;
      const T* up = gate + job.cols;
      const T* grad = static_cast<const T*>(job.other) + at[ActJob::kOther] + start;
      T* grad_gate = static_cast<T*>(job.out) + at[ActJob::kOut] + start;
      T* grad_up = grad_gate + job.cols;
      // Streaming stores need both halves aligned.
      if (job.stream && StreamPrefix(grad_gate, n) == 0 && StreamPrefix(grad_up, n) == 0) {
        MultiplyBackwardPiece<kKind, true>(n, gate, up, grad, grad_gate, grad_up);
      } else {
        MultiplyBackwardPiece<kKind, false>(n, gate, up, grad, grad_gate, grad_up);
      }
    }
  });
}

}  // namespace

#define KPT_DEFINE_ACT_ROWS(name, function)                     \
  void name(const ActPieces& job, int64_t begin, int64_t end) { \
    switch (job.dtype) {                                        \
      case DType::kFloat32:                                     \
        return function<float>(job, begin, end);                \
      case DType::kFloat16:                                     \
        return function<Half>(job, begin, end);                 \
      default:                                                  \
        return function<BFloat16>(job, begin, end);             \
    }                                                           \
  }
KPT_DEFINE_ACT_ROWS(ActRows, Forward)
KPT_DEFINE_ACT_ROWS(ActBackwardRows, Backward)
KPT_DEFINE_ACT_ROWS(ActMulRows, Multiply)
KPT_DEFINE_ACT_ROWS(ActMulBackwardRows, MultiplyBackward)
#undef KPT_DEFINE_ACT_ROWS

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_ACTIVATION_CPU_ACT_ROWS_IMPL_H_
