// Where the tokens of a sequence lie in a key-value cache, and the angles that new ones turn by.
//
// Included by files compiled for different instruction sets: every function is static.
#ifndef KPT_KERNELS_ATTENTION_CACHE_PLACES_H_
#define KPT_KERNELS_ATTENTION_CACHE_PLACES_H_

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/host_device.h"

namespace kpt {

// The lengths of the sequences and, for a cache in pages, whose these are.
struct CachePlaces {
  const void* seq_lens;
  DType seq_lens_dtype;
  int64_t seq_lens_stride;
  const int32_t* block_table;  // nullptr: contiguous caches
  int64_t table_batch, table_page;
  int64_t page_size, num_pages, capacity;
};

[[maybe_unused]] KPT_HOST_DEVICE static inline int64_t SeqLen(const CachePlaces& p, int64_t batch) {
  const int64_t at = batch * p.seq_lens_stride;
  return p.seq_lens_dtype == DType::kInt32 ? static_cast<const int32_t*>(p.seq_lens)[at]
                                           : static_cast<const int64_t*>(p.seq_lens)[at];
}

// Where key j of a batch entry lies: its entry or page, and its row there.
struct KeyPlace {
  int64_t first;
  int64_t row;
};

[[maybe_unused]] static inline KeyPlace PlaceOf(const CachePlaces& p, int64_t batch, int64_t key) {
  if (p.block_table == nullptr) return {batch, key};
  const int64_t page = key / p.page_size;
  return {p.block_table[batch * p.table_batch + page * p.table_page], key % p.page_size};
}

// Cosines and sines of the new tokens' positions, as rope takes them. Strides in elements.
struct Rotation {
  const void* cos;
  const void* sin;
  DType dtype;
  int64_t cos_batch, cos_row, sin_batch, sin_row;
  int64_t pairs = 0;  // 0: nothing turns
  bool interleaved;
};

}  // namespace kpt

#endif  // KPT_KERNELS_ATTENTION_CACHE_PLACES_H_
