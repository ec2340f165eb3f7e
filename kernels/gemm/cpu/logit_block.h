// A block of logits of a linear classifier, [rows, classes], in float: what linear_cross_entropy
// and its backward do with it.
#ifndef KPT_KERNELS_GEMM_CPU_LOGIT_BLOCK_H_
#define KPT_KERNELS_GEMM_CPU_LOGIT_BLOCK_H_

#include <cstdint>

#include "kernels/base/cross_entropy_rows.h"
#include "kernels/base/dtype.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/variant.h"
#include "kernels/gemm/cpu/gradient_rows.h"
#include "kernels/gemm/cpu/linear_problems.h"

namespace kpt::cpu {

// At most this many rows and classes: four megabytes stay in the outer caches, packing a panel of
// the weight is shared by many rows, and transposed products have a long inner dimension.
inline constexpr int64_t kBlockRows = 1024;
inline constexpr int64_t kBlockClasses = 512;

// Rows of the block from row `begin` on, the end of the one before: even blocks, none of few rows.
inline int64_t RowsOfBlock(int64_t rows, int64_t begin) {
  const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  const int64_t index = (begin * blocks + rows - 1) / rows;
  return rows * (index + 1) / blocks - begin;
}

// At least n elements of `item` bytes, in an odd number of cache lines: rows of a register tile
// then lie in different sets of the cache.
constexpr int64_t OddLines(int64_t n, int64_t item) {
  return (n * item + 127) / 128 * (128 / item) + 64 / item;
}

struct LogitBlock {
  float* logits = nullptr;  // [rows, ld]
  int64_t rows = 0;
  int64_t ld = 0;
  int64_t first = 0;  // class of the first column
  int64_t classes = 0;
  Targets targets;  // of the block's rows, as are all that follow
  int64_t ignore_index = 0;
  bool total = false;                               // label smoothing wants the sum of the logits
  CrossEntropyRow* states = nullptr;                // forward
  const CrossEntropyGradient* gradients = nullptr;  // backward
};

// In each of the portable namespaces, for rows [begin, end):
//   UpdateLogitRows      takes the block into the states; targets may be any.
//   GradientFloatRows    turns logits into gradients in place.
//   GradientBf16Rows     the same into bfloat16, rows 2 ld elements apart.
//   ConvertFloatRows     `from` to float, rows ld apart.
//   RoundFloatRows       floats, rows ld apart, to `to`.
#define KPT_LOGITS_DECLARE(ns)                                                                     \
  namespace ns {                                                                                   \
  void UpdateLogitRows(const LogitBlock& block, int64_t begin, int64_t end);                       \
  void GradientFloatRows(const LogitBlock& block, int64_t begin, int64_t end);                     \
  void GradientBf16Rows(const LogitBlock& block, int64_t begin, int64_t end);                      \
  void ConvertFloatRows(const RowMatrix& from, int64_t begin, int64_t end, float* to, int64_t ld); \
  void RoundFloatRows(const float* from, int64_t ld, int64_t begin, int64_t end,                   \
                      const RowMatrix& to);                                                        \
  }
KPT_LOGITS_DECLARE(baseline)
KPT_LOGITS_DECLARE(avx2)
KPT_LOGITS_DECLARE(avx512)
#undef KPT_LOGITS_DECLARE

// What a variant runs.
struct LogitKernels {
  bool bf16 = false;  // products of bfloat16 pairs; else all products are of floats
  LinearKernel gemm = nullptr;
  void (*update)(const LogitBlock&, int64_t, int64_t) = nullptr;
  void (*gradient)(const LogitBlock&, int64_t, int64_t) = nullptr;
  void (*convert)(const RowMatrix&, int64_t, int64_t, float*, int64_t) = nullptr;
  void (*round)(const float*, int64_t, int64_t, int64_t, const RowMatrix&) = nullptr;
  void (*transpose)(const RowMatrix&, int64_t, int64_t, void*, int64_t) = nullptr;
};

// Chooses for tensors of this dtype, as RunFirst does for the operator.
Status ChooseLogitKernels(const char* op, const LaunchContext& ctx, DType dtype,
                          LogitKernels* kernels);
std::vector<VariantInfo> LogitVariants();

// Checks hidden [N, D] and weight [V, D], the targets and the options.
Status CheckLinearClassifier(const char* op, const TensorView& hidden, const TensorView& weight,
                             const TensorView& target, const CrossEntropyOptions& options);

// block.logits = hidden weight^T, of the block's rows and classes. False without scratch memory.
bool MultiplyLogits(int num_threads, LinearKernel gemm, const RowMatrix& hidden,
                    const RowMatrix& weight, const LogitBlock& block);

// out = left right, or out += left right where out is float; right is stored [k, n].
bool MultiplyTransposed(int num_threads, LinearKernel gemm, const RowMatrix& left,
                        const RowMatrix& right, const RowMatrix& out, bool accumulate);

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_CPU_LOGIT_BLOCK_H_
