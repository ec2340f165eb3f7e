// Items sorted into buckets, stably: the tokens of each expert, the readers of each row.
#ifndef KPT_KERNELS_BASE_BUCKETS_H_
#define KPT_KERNELS_BASE_BUCKETS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/row_checks.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"

namespace kpt {

// Bucket b holds items [starts[b], starts[b + 1]) of `items`, which are indices into the keys.
struct Buckets {
  std::vector<int64_t> starts;
  std::vector<int64_t> items;

  int64_t count() const { return static_cast<int64_t>(starts.size()) - 1; }
  int64_t size(int64_t b) const { return starts[b + 1] - starts[b]; }
};

// Sorts [0, keys.size()) by key in [0, count), in order within a bucket; negative keys are left
// out.
inline Buckets SortIntoBuckets(const std::vector<int64_t>& keys, int64_t count) {
  Buckets found;
  found.starts.assign(static_cast<size_t>(count) + 1, 0);
  for (const int64_t key : keys) {
    if (key >= 0) ++found.starts[key + 1];
  }
  for (int64_t b = 0; b < count; ++b) found.starts[b + 1] += found.starts[b];
  found.items.resize(static_cast<size_t>(found.starts[count]));
  std::vector<int64_t> next(found.starts.begin(), found.starts.end() - 1);
  for (size_t i = 0; i < keys.size(); ++i) {
    if (keys[i] >= 0) found.items[next[keys[i]]++] = static_cast<int64_t>(i);
  }
  return found;
}

// The numbers of an int64 matrix [rows, columns], row after row; each must be in [least, count).
inline Status ReadKeys(const char* op, const char* arg, const TensorView& t, int64_t least,
                       int64_t count, const char* of, std::vector<int64_t>* keys) {
  if (t.dtype != DType::kInt64) {
    return Status::TypeError(Argument(op, arg) + "must have dtype int64, got " + Name(t.dtype));
  }
  if (t.rank != 2) {
    return Status::InvalidArgument(Argument(op, arg) + "must have 2 dimensions [T, K], got " +
                                   ShapeText(t));
  }
  keys->resize(static_cast<size_t>(t.size()));
  for (int64_t r = 0; r < t.dim(0); ++r) {
    for (int64_t c = 0; c < t.dim(1); ++c) {
      const int64_t key = t.as<int64_t>()[r * t.stride(0) + c * t.stride(1)];
      if (key < least || key >= count) {
        return Status::InvalidArgument(Argument(op, arg) + "must be from " + std::to_string(least) +
                                       " to " + std::to_string(count - 1) + ", below the " +
                                       std::to_string(count) + " " + of + ", got " +
                                       std::to_string(key) + " at [" + std::to_string(r) + ", " +
                                       std::to_string(c) + "]");
      }
      (*keys)[r * t.dim(1) + c] = key;
    }
  }
  return Status();
}

}  // namespace kpt

#endif  // KPT_KERNELS_BASE_BUCKETS_H_
