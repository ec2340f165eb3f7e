// KeyBlocks: which blocks of keys some query of a tile can see, by position and by document.
#ifndef KPT_KERNELS_ATTENTION_CUDA_KEY_BLOCKS_H_
#define KPT_KERNELS_ATTENTION_CUDA_KEY_BLOCKS_H_

#include "kernels/attention/cuda/score_rules.h"

namespace kpt::gpu {

KPT_DEVICE int64_t WarpLeast(int64_t x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    const uint32_t lo = FloatToBits(ShuffleXor(BitsToFloat(static_cast<uint32_t>(x)), mask));
    const uint32_t hi = FloatToBits(ShuffleXor(BitsToFloat(static_cast<uint32_t>(x >> 32)), mask));
    const int64_t other = static_cast<int64_t>((static_cast<uint64_t>(hi) << 32) | lo);
    x = other < x ? other : x;
  }
  return x;
}

// Every thread of the block walks them alike, and every warp as a whole.
template <int kKeys>
class KeyBlocks {
 public:
  // Of queries [first_query, last_query].
  KPT_DEVICE_MEMBER KeyBlocks(const FlashProblem& p, int64_t batch, int64_t first_query,
                              int64_t last_query)
      : p_(p), batch_(batch) {
    begin_ = static_cast<int>(VisibleKeys(p, first_query).begin) / kKeys * kKeys;
    end_ = static_cast<int>(VisibleKeys(p, last_query).end);
    if (p.q_doc == nullptr) return;
    int64_t least = INT64_MAX, minus_most = INT64_MAX;
    for (int64_t i = first_query + ThreadIndex() % 32; i <= last_query; i += 32) {
      const int64_t d = DocumentAt(p.q_doc, p.doc_dtype, batch * p.q_doc_batch + i * p.q_doc_row);
      least = d < least ? d : least;
      minus_most = ~d < minus_most ? ~d : minus_most;  // ~d orders as -d does
    }
    least_ = WarpLeast(least);
    most_ = ~WarpLeast(minus_most);
  }

  KPT_DEVICE_MEMBER int First() const { return SkipHidden(begin_); }
  // The one after it; end() or beyond when there is none.
  KPT_DEVICE_MEMBER int Next(int first) const { return SkipHidden(first + kKeys); }
  KPT_DEVICE_MEMBER int end() const { return end_; }

 private:
  // A block none of whose keys lies among the documents of the queries is hidden.
  KPT_DEVICE_MEMBER int SkipHidden(int first) const {
    if (p_.q_doc == nullptr) return first;
    for (; first < end_; first += kKeys) {
      bool near = false;
      for (int i = ThreadIndex() % 32; i < kKeys; i += 32) {
        if (first + i >= end_) continue;
        const int64_t d = DocumentAt(p_.k_doc, p_.doc_dtype,
                                     batch_ * p_.k_doc_batch + (first + i) * p_.k_doc_row);
        near = near || (d >= least_ && d <= most_);
      }
      if (WarpAny(near)) break;
    }
    return first;
  }

  const FlashProblem& p_;
  int64_t batch_;
  int begin_, end_;
  int64_t least_ = 0, most_ = 0;
};

}  // namespace kpt::gpu

#endif  // KPT_KERNELS_ATTENTION_CUDA_KEY_BLOCKS_H_
