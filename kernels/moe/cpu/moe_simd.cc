// The row loops of the family, compiled once per portable instruction set.
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/base/simd_io.h"
#include "kernels/base/simd_math.h"
#include "kernels/base/simd_weighted_sum.h"
#include "kernels/moe/cpu/moe_loops.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

constexpr float kTiny = 1e-20f;  // added to sums that divide

// An order of floats as integers in which NaN is above all numbers and -0 equals 0.
int32_t KeyOf(float v) {
  if (v != v) return INT32_MAX;
  v += 0.0f;
  int32_t bits;
  std::memcpy(&bits, &v, sizeof(bits));
  return bits >= 0 ? bits : INT32_MIN - bits;
}

// s[e] for all experts, from the logits x[e]; both padded to whole vectors (x with -inf).
void Scores(RouteScore score, const float* x, int64_t n, float* s) {
  const FloatTag d;
  if (score == RouteScore::kSigmoid) {
    for (int64_t e = 0; e < n; e += kLanes) {
      hn::StoreU(Sigmoid<false>(hn::LoadU(d, x + e)), d, s + e);
    }
    return;
  }
  float most = -HUGE_VALF;
  bool nan = false;
  for (int64_t e = 0; e < n; ++e) {
    nan = nan || x[e] != x[e];
    most = x[e] > most ? x[e] : most;
  }
  // As in PyTorch, one NaN or infinity of the kind that makes one makes all of them NaN.
  const FloatVec top = Set(nan ? std::numeric_limits<float>::quiet_NaN() : most);
  double sum = 0;
  for (int64_t e = 0; e < n; e += kLanes) {
    hn::StoreU(ExpBelowMax<false>(hn::Sub(hn::LoadU(d, x + e), top)), d, s + e);
    for (int64_t i = e; i < n && i < e + kLanes; ++i) sum += s[i];
  }
  for (int64_t e = 0; e < n; ++e) s[e] = static_cast<float>(s[e] / sum);
}

template <class T>
void LoadRow(const T* p, int64_t n, float* to) {
  const FloatTag d;
  for (int64_t i = 0; i < n; i += kLanes) {
    if (n - i >= kLanes) {
      hn::StoreU(Load(p + i), d, to + i);
    } else {
      hn::StoreU(LoadN(p + i, n - i), d, to + i);
      for (int64_t j = n; j < i + kLanes; ++j) to[j] = -HUGE_VALF;
    }
  }
}

template <class T>
void StoreRow(const float* from, int64_t n, T* to) {
  for (int64_t i = 0; i < n; i += kLanes) {
    StoreN(LoadN(from + i, n - i < kLanes ? n - i : kLanes), to + i,
           n - i < kLanes ? n - i : kLanes);
  }
}

// The `count` largest of keys[0, n), largest first and the lower index where equal, at *chosen.
// keys of INT32_MIN are out of the choice unless nothing else is left.
void Largest(const int32_t* keys, int64_t n, int64_t count, int64_t* chosen) {
  int64_t have = 0;
  for (int64_t e = 0; e < n; ++e) {
    if (have == count && keys[e] <= keys[chosen[have - 1]]) continue;
    int64_t at = have < count ? have++ : have - 1;
    for (; at > 0 && keys[e] > keys[chosen[at - 1]]; --at) chosen[at] = chosen[at - 1];
    chosen[at] = e;
  }
}

// Leaves the experts of the best groups; the keys of others become INT32_MIN.
void KeepGroups(const RouteJob& job, const float* v, int32_t* keys, int32_t* worth) {
  const int64_t size = job.experts / job.num_groups;
  for (int64_t g = 0; g < job.num_groups; ++g) {
    int64_t best[2] = {0, 0};
    const int64_t wanted = job.bias != nullptr && size > 1 ? 2 : 1;
    Largest(keys + g * size, size, wanted, best);
    float sum = v[g * size + best[0]];
    if (wanted == 2) sum += v[g * size + best[1]];
    worth[g] = KeyOf(sum);
  }
  for (int64_t g = 0; g < job.num_groups; ++g) {
    // Its rank among the groups: how many come before it.
    int64_t rank = 0;
    for (int64_t o = 0; o < job.num_groups; ++o) {
      rank += worth[o] > worth[g] || (worth[o] == worth[g] && o < g);
    }
    if (rank < job.top_groups) continue;
    for (int64_t e = g * size; e < (g + 1) * size; ++e) keys[e] = INT32_MIN;
  }
}

template <class T>
void Route(const RouteJob& job, int64_t begin, int64_t end, float* scratch) {
  const int64_t room = RouteBufferFloats(job.experts);
  float* x = scratch;
  float* s = scratch + room;
  int32_t* keys = reinterpret_cast<int32_t*>(scratch + 2 * room);
  for (int64_t r = begin; r < end; ++r) {
    LoadRow(static_cast<const T*>(job.logits) + r * job.ld_logits, job.experts, x);
    Scores(job.score, x, job.experts, s);
    if (job.bias != nullptr) {
      for (int64_t e = 0; e < job.experts; ++e) x[e] = s[e] + job.bias[e];
    }
    for (int64_t e = 0; e < job.experts; ++e) keys[e] = KeyOf(x[e]);
    if (job.top_groups < job.num_groups) {
      KeepGroups(job, x, keys, reinterpret_cast<int32_t*>(scratch + 3 * room));
    }
    int64_t* indices = job.indices + r * job.ld_indices;
    Largest(keys, job.experts, job.top_k, indices);
    double sum = kTiny;
    for (int64_t j = 0; j < job.top_k; ++j) sum += s[indices[j]];
    const double factor = job.renormalize ? job.scale / sum : job.scale;
    T* weights = static_cast<T*>(job.weights) + r * job.ld_weights;
    for (int64_t j = 0; j < job.top_k; ++j) {
      const float w = static_cast<float>(s[indices[j]] * factor);
      StoreN(Set(w), weights + j, 1);
    }
  }
}

template <class T>
void RouteBackward(const RouteJob& job, int64_t begin, int64_t end, float* scratch) {
  const int64_t room = RouteBufferFloats(job.experts);
  float* x = scratch;
  float* s = scratch + room;
  float* grad = scratch + 2 * room;
  for (int64_t r = begin; r < end; ++r) {
    LoadRow(static_cast<const T*>(job.logits) + r * job.ld_logits, job.experts, x);
    Scores(job.score, x, job.experts, s);
    const int64_t* indices = job.indices + r * job.ld_indices;
    const T* given = static_cast<const T*>(job.weights) + r * job.ld_weights;
    const auto grad_of = [&](int64_t j) HWY_ATTR { return hn::GetLane(LoadN(given + j, 1)); };
    double sum = kTiny;
    double dot = 0;
    for (int64_t j = 0; j < job.top_k; ++j) {
      sum += s[indices[j]];
      dot += static_cast<double>(grad_of(j)) * s[indices[j]];
    }
    for (int64_t e = 0; e < job.experts; ++e) grad[e] = 0.0f;
    double through = 0;  // softmax: what all experts lose for each unit of their score
    for (int64_t j = 0; j < job.top_k; ++j) {
      const int64_t e = indices[j];
      const double of_score =
          job.renormalize ? job.scale * (grad_of(j) - dot / sum) / sum : job.scale * grad_of(j);
      through += of_score * s[e];
      const double slope = job.score == RouteScore::kSigmoid ? 1.0 - s[e] : 1.0;
      grad[e] = static_cast<float>(of_score * s[e] * slope);
    }
    if (job.score == RouteScore::kSoftmax) {
      for (int64_t e = 0; e < job.experts; ++e) {
        grad[e] = static_cast<float>(grad[e] - through * s[e]);
      }
    }
    StoreRow(grad, job.experts, static_cast<T*>(job.grad) + r * job.ld_grad);
  }
}

template <class T>
void Combine(const CombineJob& job, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const int64_t* rows = job.row_of + t * job.top_k;
    const float* weights = job.weights + t * job.top_k;
    WeightedSum(
        job.top_k, job.cols,
        [&](int64_t j, float* weight) -> const T* {
          *weight = weights[j];
          return rows[j] < 0 ? nullptr : static_cast<const T*>(job.y) + rows[j] * job.ld_y;
        },
        static_cast<T*>(job.out) + t * job.ld_out);
  }
}

template <class T>
void GradY(const CombineJob& job, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const int64_t* readers = job.readers + job.reader_starts[r];
    WeightedSum(
        job.reader_starts[r + 1] - job.reader_starts[r], job.cols,
        [&](int64_t i, float* weight) -> const T* {
          *weight = job.weights[readers[i]];
          return static_cast<const T*>(job.out) + readers[i] / job.top_k * job.ld_out;
        },
        static_cast<T*>(job.grad_y) + r * job.ld_grad_y);
  }
}

template <class T>
float DotRows(const T* a, const T* b, int64_t n) {
  const FloatTag d;
  FloatVec sums[4] = {Set(0.0f), Set(0.0f), Set(0.0f), Set(0.0f)};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int k = 0; k < 4; ++k) {
      sums[k] = hn::MulAdd(Load(a + i + k * kLanes), Load(b + i + k * kLanes), sums[k]);
    }
  }
  for (; i < n; i += kLanes) {
    const int64_t m = n - i < kLanes ? n - i : kLanes;
    sums[0] = hn::MulAdd(LoadN(a + i, m), LoadN(b + i, m), sums[0]);
  }
  return hn::ReduceSum(d, hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3])));
}

template <class T>
void GradWeights(const CombineJob& job, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const T* grad = static_cast<const T*>(job.out) + t * job.ld_out;
    for (int64_t j = 0; j < job.top_k; ++j) {
      const int64_t row = job.row_of[t * job.top_k + j];
      job.grad_weights[t * job.top_k + j] =
          row < 0 ? 0.0f : DotRows(grad, static_cast<const T*>(job.y) + row * job.ld_y, job.cols);
    }
  }
}

// f(T*) for the dtype's type.
template <class F>
void WithType(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kFloat16:
      return f(static_cast<Half*>(nullptr));
    case DType::kBFloat16:
      return f(static_cast<BFloat16*>(nullptr));
    default:
      return f(static_cast<float*>(nullptr));
  }
}

}  // namespace

void RouteRows(const RouteJob& job, int64_t begin, int64_t end, float* scratch) {
  WithType(job.dtype,
           [&](auto* t) { Route<std::remove_pointer_t<decltype(t)>>(job, begin, end, scratch); });
}

void RouteBackwardRows(const RouteJob& job, int64_t begin, int64_t end, float* scratch) {
  WithType(job.dtype, [&](auto* t) {
    RouteBackward<std::remove_pointer_t<decltype(t)>>(job, begin, end, scratch);
  });
}

void CombineRows(const CombineJob& job, int64_t begin, int64_t end) {
  WithType(job.dtype,
           [&](auto* t) { Combine<std::remove_pointer_t<decltype(t)>>(job, begin, end); });
}

void GradYRows(const CombineJob& job, int64_t begin, int64_t end) {
  WithType(job.dtype, [&](auto* t) { GradY<std::remove_pointer_t<decltype(t)>>(job, begin, end); });
}

void GradWeightRows(const CombineJob& job, int64_t begin, int64_t end) {
  WithType(job.dtype,
           [&](auto* t) { GradWeights<std::remove_pointer_t<decltype(t)>>(job, begin, end); });
}

void ToFloats(DType dtype, const void* from, int64_t n, float* to) {
  WithType(dtype, [&](auto* t) HWY_ATTR {
    using T = std::remove_pointer_t<decltype(t)>;
    const T* p = static_cast<const T*>(from);
    for (int64_t i = 0; i < n; i += kLanes) {
      const int64_t m = n - i < kLanes ? n - i : kLanes;
      StoreN(LoadN(p + i, m), to + i, m);
    }
  });
}

void FromFloats(DType dtype, const float* from, int64_t n, void* to) {
  WithType(dtype, [&](auto* t) HWY_ATTR {
    StoreRow(from, n, static_cast<std::remove_pointer_t<decltype(t)>*>(to));
  });
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();
