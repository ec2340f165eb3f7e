// The loops of the norms' gradients, one copy per instruction set.
#ifndef KPT_KERNELS_NORM_CPU_NORM_BACKWARD_ROWS_H_
#define KPT_KERNELS_NORM_CPU_NORM_BACKWARD_ROWS_H_

#include <cstdint>

#include "kernels/norm/norm_backward_job.h"

namespace kpt::cpu {

// A checked problem. Plain data: files of every instruction set read it.
//
// Rows are worked on in chunks whose length depends on the shape alone. Each chunk has sums of its
// own for the parameters' gradients, and a tree adds them up: the same sum for any threads.
struct NormBackwardWork : NormBackwardJob {
  // Rows added up one by one; a longer chunk adds up the sums of such blocks, which keeps the
  // rounding error of a sum over many rows small.
  static constexpr int64_t kBlockRows = 16;

  bool stream = false;  // write grad_x past the caches
  int64_t chunk_rows = 1;
  int64_t chunks = 0;
  const float* wide_weight = nullptr;  // in the order that rows are read in

  // Scratch: for each chunk the sums for the weight and (layer norm) for the bias, and as much
  // again for the block at hand.
  float* sums = nullptr;
  int64_t sums_stride = 0;  // floats of one sum
  int sums_kinds() const { return subtract_mean ? 2 : 1; }
  float* ChunkSums(int64_t chunk) const { return sums + chunk * 2 * sums_kinds() * sums_stride; }
};

#define KPT_DECLARE_NORM_BACKWARD(isa)                                                    \
  namespace isa {                                                                         \
  /* The weight as wide_weight wants it: where it lies, or in `buffer` of cols floats. */ \
  const float* NormBackwardWeight(const NormBackwardWork& job, float* buffer);            \
  /* grad_x and the sums of chunks [begin, end). */                                       \
  void NormBackwardChunks(const NormBackwardWork& job, int64_t begin, int64_t end);       \
  /* The parameters' gradients of pieces [begin, end) of kNormBackwardPiece columns. */   \
  void NormBackwardParams(const NormBackwardWork& job, int64_t begin, int64_t end);       \
  }
KPT_DECLARE_NORM_BACKWARD(baseline)
KPT_DECLARE_NORM_BACKWARD(avx2)
KPT_DECLARE_NORM_BACKWARD(avx512)
KPT_DECLARE_NORM_BACKWARD(avx512_bf16)
#undef KPT_DECLARE_NORM_BACKWARD

inline constexpr int64_t kNormBackwardPiece = 1024;

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_NORM_CPU_NORM_BACKWARD_ROWS_H_
