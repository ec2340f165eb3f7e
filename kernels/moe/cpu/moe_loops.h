// The row loops of the family, one copy per instruction set.
#ifndef KPT_KERNELS_MOE_CPU_MOE_LOOPS_H_
#define KPT_KERNELS_MOE_CPU_MOE_LOOPS_H_

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/base/parallel_for.h"
#include "kernels/base/variant.h"
#include "kernels/moe/moe_route.h"

namespace kpt::cpu {

// Checked problems. Plain data: files of every instruction set read them. Strides are in elements.
struct RouteJob {
  int64_t rows = 0;
  int64_t experts = 0;
  int64_t top_k = 0;
  DType dtype = DType::kFloat32;
  const void* logits = nullptr;
  int64_t ld_logits = 0;
  void* weights = nullptr;  // backward: their gradient, which is read
  int64_t ld_weights = 0;
  int64_t* indices = nullptr;  // backward: read
  int64_t ld_indices = 0;
  const float* bias = nullptr;  // dense
  RouteScore score = RouteScore::kSoftmax;
  bool renormalize = true;
  int64_t num_groups = 1;
  int64_t top_groups = 1;
  float scale = 1.0f;
  void* grad = nullptr;  // backward: of the logits
  int64_t ld_grad = 0;
};

// A thread's scratch is kRouteBuffers of these: the logits or what experts are chosen by, the
// scores, both as keys (backward: the gradient), and the worth of groups; whole vectors past the
// experts.
inline constexpr int64_t kRouteBuffers = 4;
inline int64_t RouteBufferFloats(int64_t experts) { return (experts + 31) / 16 * 16; }

struct CombineJob {
  int64_t tokens = 0;
  int64_t top_k = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  DType dtype = DType::kFloat32;
  const void* y = nullptr;
  int64_t ld_y = 0;
  const int64_t* row_of = nullptr;  // dense
  const float* weights = nullptr;   // dense, converted
  void* out = nullptr;              // backward: the gradient of out, which is read
  int64_t ld_out = 0;
  // Backward.
  void* grad_y = nullptr;
  int64_t ld_grad_y = 0;
  const int64_t* reader_starts = nullptr;  // of each row of y, into readers
  const int64_t* readers = nullptr;        // t top_k + j
  float* grad_weights = nullptr;           // dense
};

// RouteRows, RouteBackwardRows, CombineRows, GradWeightRows: rows (tokens) [begin, end).
// GradYRows: rows of y. ToFloats, FromFloats: a row of any dtype.
#define KPT_MOE_DECLARE(ns)                                                                \
  namespace ns {                                                                           \
  void RouteRows(const RouteJob& job, int64_t begin, int64_t end, float* scratch);         \
  void RouteBackwardRows(const RouteJob& job, int64_t begin, int64_t end, float* scratch); \
  void CombineRows(const CombineJob& job, int64_t begin, int64_t end);                     \
  void GradYRows(const CombineJob& job, int64_t begin, int64_t end);                       \
  void GradWeightRows(const CombineJob& job, int64_t begin, int64_t end);                  \
  void ToFloats(DType dtype, const void* from, int64_t n, float* to);                      \
  void FromFloats(DType dtype, const float* from, int64_t n, void* to);                    \
  }
KPT_MOE_DECLARE(baseline)
KPT_MOE_DECLARE(avx2)
KPT_MOE_DECLARE(avx512)
#undef KPT_MOE_DECLARE

// The variant table of an operator: RUN(ns) is its function over one instruction set's loops.
#if defined(KPT_HAVE_X86_VARIANTS)
#define KPT_MOE_VARIANTS(RUN)                                    \
  {                                                              \
      {"rows_avx512", Isa::kAvx512, nullptr, RUN(avx512)},       \
      {"rows_avx2", Isa::kAvx2, nullptr, RUN(avx2)},             \
      {"rows_baseline", Isa::kBaseline, nullptr, RUN(baseline)}, \
  }
#else
#define KPT_MOE_VARIANTS(RUN)                                    \
  {                                                              \
      {"rows_baseline", Isa::kBaseline, nullptr, RUN(baseline)}, \
  }
#endif

// Rows that are worth a thread, for rows of `cols` elements.
inline int64_t MoeGrain(int64_t cols) { return 16384 / (cols + 1) + 1; }

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_MOE_CPU_MOE_LOOPS_H_
