// NormBackwardChunks and its like, for the instruction set that the including file is compiled for.
//
// A row of x and of grad_y comes from memory once. Passes over it in the first-level cache take its
// statistics and the two means that grad_x needs; the last pass writes grad_x and adds to the
// parameters' gradients, for a few rows together, since those sums are loaded and stored each time.
#ifndef KPT_KERNELS_NORM_CPU_NORM_BACKWARD_ROWS_IMPL_H_
#define KPT_KERNELS_NORM_CPU_NORM_BACKWARD_ROWS_IMPL_H_

#include <cmath>
#include <type_traits>

#include "kernels/base/simd_io.h"
#include "kernels/base/simd_widen.h"
#include "kernels/norm/cpu/norm_backward_rows.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

// Rows of the last pass: as many as the registers have room for.
constexpr int kRowsAtOnce = kLanes >= 16 ? 4 : 2;

template <class T>
struct Row {
  const T* x;
  const T* grad_y;
  const T* grad_sum;  // nullptr: 0
  T* grad_x;
};

// Sums over a row of d = x - shift, of d^2, of g = grad_y weight, and of g d.
struct RowSums {
  float d = 0.0f, squares = 0.0f, g = 0.0f, gd = 0.0f;
};

template <bool kMean, class T>
RowSums SumsAround(const Row<T>& row, const float* weight, int64_t n, float shift) {
  const FloatTag df;
  const FloatVec s = hn::Set(df, shift);
  struct Sums {
    FloatVec d = hn::Zero(FloatTag()), squares = d, g = d, gd = d;
  } even, odd;
  const auto add = [&](FloatVec d, FloatVec grad, FloatVec w, Sums* to) HWY_ATTR {
    const FloatVec g = hn::Mul(grad, w);
    if constexpr (kMean) {
      to->d = hn::Add(to->d, d);
      to->g = hn::Add(to->g, g);
    }
    to->squares = hn::MulAdd(d, d, to->squares);
    to->gd = hn::MulAdd(g, d, to->gd);
  };
  const auto shifted = [&](FloatVec x) HWY_ATTR { return kMean ? hn::Sub(x, s) : x; };
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    FloatVec xa, xb, ga, gb;
    LoadBoth(row.x + i, &xa, &xb);
    LoadBoth(row.grad_y + i, &ga, &gb);
    add(shifted(xa), ga, Load(weight + i), &even);
    add(shifted(xb), gb, Load(weight + i + kLanes), &odd);
  }
  for (; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    const FloatVec d =
        hn::IfThenElseZero(hn::FirstN(df, static_cast<size_t>(m)), shifted(LoadN(row.x + i, m)));
    add(d, LoadN(row.grad_y + i, m), LoadN(weight + i, m), &even);
  }
  const auto total = [&](FloatVec a, FloatVec b)
                         HWY_ATTR { return hn::ReduceSum(df, hn::Add(a, b)); };
  RowSums sums;
  if constexpr (kMean) {
    sums.d = total(even.d, odd.d);
    sums.g = total(even.g, odd.g);
  }
  sums.squares = total(even.squares, odd.squares);
  sums.gd = total(even.gd, odd.gd);
  return sums;
}

template <class T>
float MeanOf(const T* x, int64_t n) {
  FloatVec s0 = hn::Zero(FloatTag()), s1 = s0;
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    FloatVec a, b;
    LoadBoth(x + i, &a, &b);
    s0 = hn::Add(s0, a);
    s1 = hn::Add(s1, b);
  }
  for (; i < n; i += kLanes) {
    s0 = hn::Add(s0, LoadN(x + i, n - i < kLanes ? n - i : kLanes));
  }
  return hn::ReduceSum(FloatTag(), hn::Add(s0, s1)) / static_cast<float>(n);
}

// grad_x = rstd (g - (x - mean) slope - level): what the last pass needs of a row. In short rows
// the terms all but cancel, so each is rounded to float once.
struct Coefficients {
  float mean, rstd, slope, level;
};

// `near`: whether `shift` lay near enough to the mean, in standard deviations, for the sums around
// it to hold; not so where an infinite gradient forbids to move them to the mean.
template <bool kMean, class T>
Coefficients CoefficientsAround(const Row<T>& row, const float* weight, int64_t n, float eps,
                                float shift, bool* near) {
  const RowSums s = SumsAround<kMean>(row, weight, n, shift);
  const double count = static_cast<double>(n);
  const double rest = s.d / count;
  const double variance = s.squares / count - rest * rest;
  const bool finite = std::isfinite(s.g);
  *near = finite && rest * rest <= 16.0 * variance;
  const double precision = 1.0 / ((variance < 0.0 ? 0.0 : variance) + eps);  // NaN stays
  Coefficients c{};
  c.mean = static_cast<float>(shift + rest);
  c.rstd = static_cast<float>(std::sqrt(precision));
  c.slope = static_cast<float>((finite ? s.gd - rest * s.g : s.gd) / count * precision);
  c.level = static_cast<float>(s.g / count);
  return c;
}

template <bool kMean, class T>
Coefficients CoefficientsOf(const Row<T>& row, const float* weight, int64_t n, float eps) {
  bool near;
  if constexpr (kMean) {
    // Narrow rows usually lie near enough to their first element; see norm_rows_impl.h.
    if constexpr (!std::is_same_v<T, float>) {
      const float first = hn::GetLane(LoadN(row.x, 1));
      const Coefficients c = CoefficientsAround<true>(row, weight, n, eps, first, &near);
      if (near) return c;
    }
    return CoefficientsAround<true>(row, weight, n, eps, MeanOf(row.x, n), &near);
  } else {
    return CoefficientsAround<false>(row, weight, n, eps, 0.0f, &near);
  }
}

// The last pass over kRows rows. With kSums adds to the gradients of weight and (kMean) bias.
template <class T, bool kMean, bool kSums, int kRows>
void LastPass(const Row<T>* rows, const Coefficients* coefficients, const float* weight, int64_t n,
              bool stream, float* weight_sums, float* bias_sums) {
  const FloatTag df;
  FloatVec mean[kRows], rstd[kRows], slope[kRows], level[kRows];
  HWY_UNROLL(4)
  for (int r = 0; r < kRows; ++r) {
    mean[r] = hn::Set(df, coefficients[r].mean);
    rstd[r] = hn::Set(df, coefficients[r].rstd);
    slope[r] = hn::Set(df, coefficients[r].slope);
    level[r] = hn::Set(df, coefficients[r].level);
  }
  const bool add = rows[0].grad_sum != nullptr;
  // With every product inside a MulAdd or feeding one, compilers have no choice left: the result of
  // a row is the same whatever kRows is.
  const auto step = [&](int r, FloatVec x, FloatVec grad, FloatVec more, FloatVec w,
                        FloatVec* sum_w, FloatVec* sum_b) HWY_ATTR {
    const FloatVec d = kMean ? hn::Sub(x, mean[r]) : x;
    if constexpr (kSums) {
      *sum_w = hn::MulAdd(hn::Mul(grad, rstd[r]), d, *sum_w);
      if constexpr (kMean) *sum_b = hn::Add(*sum_b, grad);
    }
    if constexpr (kMean) {
      return hn::MulAdd(hn::MulSub(grad, w, hn::MulAdd(d, slope[r], level[r])), rstd[r], more);
    } else {
      return hn::MulAdd(hn::NegMulAdd(d, slope[r], hn::Mul(grad, w)), rstd[r], more);
    }
  };
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const FloatVec wa = Load(weight + i), wb = Load(weight + i + kLanes);
    FloatVec swa = wa, swb = wa, sba = wa, sbb = wa;
    if constexpr (kSums) {
      swa = Load(weight_sums + i);
      swb = Load(weight_sums + i + kLanes);
      if constexpr (kMean) {
        sba = Load(bias_sums + i);
        sbb = Load(bias_sums + i + kLanes);
      }
    }
    HWY_UNROLL(4)
    for (int r = 0; r < kRows; ++r) {
      FloatVec xa, xb, ga, gb;
      LoadBoth(rows[r].x + i, &xa, &xb);
      LoadBoth(rows[r].grad_y + i, &ga, &gb);
      FloatVec ra = hn::Zero(df), rb = ra;
      if (add) LoadBoth(rows[r].grad_sum + i, &ra, &rb);
      const FloatVec a = step(r, xa, ga, ra, wa, &swa, &sba);
      const FloatVec b = step(r, xb, gb, rb, wb, &swb, &sbb);
      if (stream) {
        StoreBoth<true>(a, b, rows[r].grad_x + i);
      } else {
        StoreBoth<false>(a, b, rows[r].grad_x + i);
      }
    }
    if constexpr (kSums) {
      hn::StoreU(swa, df, weight_sums + i);
      hn::StoreU(swb, df, weight_sums + i + kLanes);
      if constexpr (kMean) {
        hn::StoreU(sba, df, bias_sums + i);
        hn::StoreU(sbb, df, bias_sums + i + kLanes);
      }
    }
  }
  for (; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    const FloatVec w = LoadN(weight + i, m);
    FloatVec sw = w, sb = w;
    if constexpr (kSums) {
      sw = LoadN(weight_sums + i, m);
      if constexpr (kMean) sb = LoadN(bias_sums + i, m);
    }
    for (int r = 0; r < kRows; ++r) {
      const FloatVec x = LoadN(rows[r].x + i, m), grad = LoadN(rows[r].grad_y + i, m);
      const FloatVec more = add ? LoadN(rows[r].grad_sum + i, m) : hn::Zero(df);
      StoreN(step(r, x, grad, more, w, &sw, &sb), rows[r].grad_x + i, m);
    }
    if constexpr (kSums) {
      StoreN(sw, weight_sums + i, m);
      if constexpr (kMean) StoreN(sb, bias_sums + i, m);
    }
  }
}

template <class T>
Row<T> RowAt(const NormBackwardWork& job, int64_t row) {
  using J = NormBackwardWork;
  int64_t at[J::kNumTensors];
  RowOffsets(job.plan, row, at);
  return {static_cast<const T*>(job.x) + at[J::kX],
          static_cast<const T*>(job.grad_y) + at[J::kGradY],
          job.grad_sum == nullptr ? nullptr : static_cast<const T*>(job.grad_sum) + at[J::kGradSum],
          static_cast<T*>(job.grad_x) + at[J::kGradX]};
}

template <class T, bool kMean, bool kSums, int kRows>
void SomeRows(const NormBackwardWork& job, int64_t first, float* weight_sums, float* bias_sums) {
  Row<T> rows[kRows];
  Coefficients coefficients[kRows];
  bool stream = job.stream;
  for (int r = 0; r < kRows; ++r) {
    rows[r] = RowAt<T>(job, first + r);
    coefficients[r] = CoefficientsOf<kMean>(rows[r], job.wide_weight, job.cols, job.eps);
    // The order of the parameters ties the vectors to the row's start.
    if (stream) stream = StreamPrefix(rows[r].grad_x, job.cols) == 0;
  }
  LastPass<T, kMean, kSums, kRows>(rows, coefficients, job.wide_weight, job.cols, stream,
                                   weight_sums, bias_sums);
}

template <class T, bool kMean, bool kSums>
void RowRange(const NormBackwardWork& job, int64_t begin, int64_t end, float* weight_sums,
              float* bias_sums) {
  constexpr int kRows = kSums ? kRowsAtOnce : 1;
  int64_t row = begin;
  for (; row + kRows <= end; row += kRows) {
    SomeRows<T, kMean, kSums, kRows>(job, row, weight_sums, bias_sums);
  }
  for (; row < end; ++row) SomeRows<T, kMean, kSums, 1>(job, row, weight_sums, bias_sums);
}

template <class T, bool kMean>
void Chunks(const NormBackwardWork& job, int64_t begin, int64_t end) {
  const int64_t rows = job.plan.rows;
  if (!job.has_sums()) {
    const int64_t last = end * job.chunk_rows < rows ? end * job.chunk_rows : rows;
    RowRange<T, kMean, false>(job, begin * job.chunk_rows, last, nullptr, nullptr);
    return;
  }
  const int64_t floats = job.sums_kinds() * job.sums_stride;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    float* total = job.ChunkSums(chunk);
    const int64_t first = chunk * job.chunk_rows;
    const int64_t last = first + job.chunk_rows < rows ? first + job.chunk_rows : rows;
    for (int64_t i = 0; i < floats; ++i) total[i] = 0.0f;
    for (int64_t row = first; row < last; row += NormBackwardWork::kBlockRows) {
      float* block = row == first ? total : total + floats;
      for (int64_t i = 0; row != first && i < floats; ++i) block[i] = 0.0f;
      const int64_t next = row + NormBackwardWork::kBlockRows;
      RowRange<T, kMean, true>(job, row, next < last ? next : last, block, block + job.sums_stride);
      if (row != first) {
        for (int64_t i = 0; i < floats; ++i) total[i] += block[i];
      }
    }
  }
}

template <class T>
void ChunksOf(const NormBackwardWork& job, int64_t begin, int64_t end) {
  if (job.subtract_mean) {
    Chunks<T, true>(job, begin, end);
  } else {
    Chunks<T, false>(job, begin, end);
  }
}

// The gradients of columns [begin, begin + n): the chunks' sums added up by a tree, in place.
template <class T>
void ParamsOf(const NormBackwardWork& job, int64_t begin, int64_t n) {
  for (int kind = 0; kind < job.sums_kinds(); ++kind) {
    void* out = kind == 0 ? job.grad_weight : job.grad_bias;
    const DType dtype = kind == 0 ? job.grad_weight_dtype : job.grad_bias_dtype;
    if (out == nullptr) continue;
    const auto sums = [&](int64_t chunk) {
      return job.ChunkSums(chunk) + kind * job.sums_stride + begin;
    };
    for (int64_t step = 1; step < job.chunks; step *= 2) {
      for (int64_t chunk = 0; chunk + step < job.chunks; chunk += 2 * step) {
        float* to = sums(chunk);
        const float* from = sums(chunk + step);
        for (int64_t i = 0; i < n; ++i) to[i] += from[i];
      }
    }
    switch (dtype) {
      case DType::kFloat32:
        Narrowed<T>(sums(0), n, static_cast<float*>(out) + begin);
        break;
      case DType::kFloat16:
        Narrowed<T>(sums(0), n, static_cast<Half*>(out) + begin);
        break;
      default:
        Narrowed<T>(sums(0), n, static_cast<BFloat16*>(out) + begin);
        break;
    }
  }
}

}  // namespace

const float* NormBackwardWeight(const NormBackwardWork& job, float* buffer) {
  const auto widened = [&](auto t) {
    return Widened<decltype(t)>(job.weight, job.weight_dtype, 1.0f, 0, job.cols, buffer);
  };
  switch (job.dtype) {
    case DType::kFloat32:
      return widened(float());
    case DType::kFloat16:
      return widened(Half());
    default:
      return widened(BFloat16());
  }
}

void NormBackwardChunks(const NormBackwardWork& job, int64_t begin, int64_t end) {
  switch (job.dtype) {
    case DType::kFloat32:
      return ChunksOf<float>(job, begin, end);
    case DType::kFloat16:
      return ChunksOf<Half>(job, begin, end);
    default:
      return ChunksOf<BFloat16>(job, begin, end);
  }
}

void NormBackwardParams(const NormBackwardWork& job, int64_t begin, int64_t end) {
  const int64_t first = begin * kNormBackwardPiece;
  const int64_t last = end * kNormBackwardPiece < job.cols ? end * kNormBackwardPiece : job.cols;
  for (int64_t at = first; at < last; at += kNormBackwardPiece) {
    const int64_t n = last - at < kNormBackwardPiece ? last - at : kNormBackwardPiece;
    switch (job.dtype) {
      case DType::kFloat32:
        ParamsOf<float>(job, at, n);
        break;
      case DType::kFloat16:
        ParamsOf<Half>(job, at, n);
        break;
      default:
        ParamsOf<BFloat16>(job, at, n);
        break;
    }
  }
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_NORM_CPU_NORM_BACKWARD_ROWS_IMPL_H_
