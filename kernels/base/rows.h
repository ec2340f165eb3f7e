// Rows: several tensors of one shape walked together, row by row along the last dimension.
//
// Leading dimensions are merged wherever the strides of all the tensors allow, so the usual case is
// one plain stride per tensor. Internal linkage throughout: files built for different instruction
// sets use this header.
#ifndef KPT_KERNELS_BASE_ROWS_H_
#define KPT_KERNELS_BASE_ROWS_H_

#include <cstdint>

#include "kernels/base/host_device.h"
#include "kernels/base/tensor_view.h"

namespace kpt {

// Outputs from this size on are written past the caches (measured: below, a consumer that follows
// finds them in the cache; above, the read for ownership costs more).
inline constexpr int64_t kStreamBytes = int64_t{4} << 20;

// kTensors tensors with equal leading dimensions; their last dimensions are dense and may differ.
template <int kTensors>
struct RowPlan {
  int64_t rows = 1;
  int rank = 0;  // merged leading dimensions, outermost first
  int64_t shape[kMaxRank] = {};
  int64_t strides[kTensors][kMaxRank] = {};  // in elements
};

namespace {

// Element offsets of row `row` in each tensor.
template <int kTensors>
KPT_HOST_DEVICE void RowOffsets(const RowPlan<kTensors>& plan, int64_t row,
                                int64_t (&offsets)[kTensors]) {
  for (int t = 0; t < kTensors; ++t) offsets[t] = 0;
  for (int d = plan.rank - 1; d >= 1; --d) {
    const int64_t outer = row / plan.shape[d];
    const int64_t index = row - outer * plan.shape[d];
    for (int t = 0; t < kTensors; ++t) offsets[t] += index * plan.strides[t][d];
    row = outer;
  }
  if (plan.rank > 0) {
    for (int t = 0; t < kTensors; ++t) offsets[t] += row * plan.strides[t][0];
  }
}

// Plans the rows of tensors[0 .. kTensors); a null pointer or an absent view gets offset 0
// throughout. `merged_cols`, when given, asks to merge leading dimensions into the row itself
// (for elementwise operators): it comes in as the row length and leaves as the merged length.
// A tensor of rank 0 is one row of one element.
template <int kTensors>
RowPlan<kTensors> PlanRows(const TensorView* const (&tensors)[kTensors],
                           int64_t* merged_cols = nullptr) {
  RowPlan<kTensors> plan;
  const TensorView& first = *tensors[0];
  const auto stride = [&](int t, int d) -> int64_t {
    return tensors[t] != nullptr && tensors[t]->present() ? tensors[t]->strides[d] : 0;
  };
  // Innermost first: each dimension joins the one inside it when every tensor steps evenly.
  int64_t shape[kMaxRank];
  int64_t strides[kTensors][kMaxRank];
  int rank = 0;
  bool joins_row = merged_cols != nullptr;
  for (int d = first.rank - 2; d >= 0; --d) {
    const int64_t size = first.shape[d];
    plan.rows *= size;
    if (size == 1) continue;
    if (joins_row) {
      bool dense = true;
      for (int t = 0; t < kTensors; ++t) dense = dense && stride(t, d) == *merged_cols;
      if (dense) {
        *merged_cols *= size;
        plan.rows /= size != 0 ? size : 1;
        continue;
      }
      joins_row = false;
    }
    bool joins = rank > 0;
    for (int t = 0; t < kTensors && joins; ++t) {
      joins = stride(t, d) == strides[t][rank - 1] * shape[rank - 1];
    }
    if (joins) {
      shape[rank - 1] *= size;
    } else {
      shape[rank] = size;
      for (int t = 0; t < kTensors; ++t) strides[t][rank] = stride(t, d);
      ++rank;
    }
  }
  plan.rank = rank;
  for (int d = 0; d < rank; ++d) {
    plan.shape[d] = shape[rank - 1 - d];
    for (int t = 0; t < kTensors; ++t) plan.strides[t][d] = strides[t][rank - 1 - d];
  }
  return plan;
}

// Whether `view` has elements that share memory (a stride of 0, or overlapping strides). May say
// true for exotic layouts that do not overlap; an output must give false.
[[maybe_unused]] inline bool OverlapsItself(const TensorView& view) {
  if (view.size() == 0) return false;
  // By increasing stride, every dimension must step past all that the smaller ones span.
  bool used[kMaxRank] = {};
  int64_t span = 1;
  for (int n = 0; n < view.rank; ++n) {
    int next = -1;
    for (int d = 0; d < view.rank; ++d) {
      if (used[d]) continue;
      if (next < 0 || view.strides[d] < view.strides[next]) next = d;
    }
    used[next] = true;
    if (view.shape[next] == 1) continue;
    if (view.strides[next] < span) return true;
    span += (view.shape[next] - 1) * view.strides[next];
  }
  return false;
}

// One past the last element that `view` reaches, counted from its data.
[[maybe_unused]] inline int64_t SpanOf(const TensorView& view) {
  int64_t last = 0;
  for (int d = 0; d < view.rank; ++d) {
    if (view.shape[d] == 0) return 0;
    last += (view.shape[d] - 1) * view.strides[d];
  }
  return last + 1;
}

// Whether two views are the same elements in the same order.
[[maybe_unused]] inline bool SameElements(const TensorView& a, const TensorView& b) {
  if (a.data != b.data || a.dtype != b.dtype || a.rank != b.rank) return false;
  for (int d = 0; d < a.rank; ++d) {
    if (a.shape[d] != b.shape[d]) return false;
    if (a.shape[d] > 1 && a.strides[d] != b.strides[d]) return false;
  }
  return true;
}

// Whether the address ranges of two views (strides not negative, as torch's are) meet. Columns of
// one matrix meet in this sense though they share no element.
[[maybe_unused]] inline bool RangesMeet(const TensorView& a, const TensorView& b) {
  const uintptr_t a0 = reinterpret_cast<uintptr_t>(a.data);
  const uintptr_t b0 = reinterpret_cast<uintptr_t>(b.data);
  const uintptr_t a1 = a0 + static_cast<uintptr_t>(SpanOf(a) * ItemSize(a.dtype));
  const uintptr_t b1 = b0 + static_cast<uintptr_t>(SpanOf(b) * ItemSize(b.dtype));
  return a0 < b1 && b0 < a1;
}

// Whether the dimensions in `outer` step over cells that hold a part of `a` and, behind it, one of
// `b`, as where queries and keys are columns of one matrix: their addresses mix, but not their
// elements. Neither view overlaps itself.
[[maybe_unused]] inline bool AreApartInCells(const TensorView& a, const TensorView& b,
                                             const bool (&outer)[4]) {
  if (reinterpret_cast<uintptr_t>(a.data) > reinterpret_cast<uintptr_t>(b.data)) {
    return AreApartInCells(b, a, outer);
  }
  int64_t cell = INT64_MAX, span_a = 1, span_b = 1;
  for (int d = 0; d < a.rank; ++d) {
    if (!outer[d]) {
      span_a += (a.shape[d] - 1) * a.strides[d];
      span_b += (b.shape[d] - 1) * b.strides[d];
    } else if (a.shape[d] > 1) {
      if (a.strides[d] != b.strides[d]) return false;
      if (a.strides[d] < cell) cell = a.strides[d];
    }
  }
  const int64_t bytes = static_cast<int64_t>(reinterpret_cast<uintptr_t>(b.data) -
                                             reinterpret_cast<uintptr_t>(a.data));
  const int64_t offset = bytes / ItemSize(a.dtype);
  return offset >= span_a && offset <= cell - span_b;
}

// Whether two views of equal rank, at most 4, share no element; it may say that they do for exotic
// layouts.
[[maybe_unused]] inline bool AreApart(const TensorView& a, const TensorView& b) {
  if (a.size() == 0 || b.size() == 0 || !RangesMeet(a, b)) return true;
  return a.rank == b.rank && (AreApartInCells(a, b, {true, false, true, false}) ||
                              AreApartInCells(a, b, {true, false, false, false}));
}

}  // namespace
}  // namespace kpt

#endif  // KPT_KERNELS_BASE_ROWS_H_
