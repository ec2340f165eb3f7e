// The gradients of y = x W^T, of one matrix or of one for each group of rows:
//   grad_x = grad W        grad_W = grad^T x        grad_bias = column sums of grad
//
// Products with transposed operands run on the kernels of this family. W and x are packed from
// their columns inside the cache blocks; grad^T, which a kernel reads as rows, is made in passes
// that stay in the outer cache.
#ifndef KPT_KERNELS_GEMM_CPU_GRADIENT_PRODUCTS_H_
#define KPT_KERNELS_GEMM_CPU_GRADIENT_PRODUCTS_H_

#include <cstdint>
#include <vector>

#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/variant.h"
#include "kernels/gemm/cpu/gradient_rows.h"
#include "kernels/gemm/cpu/linear_problems.h"
#include "kernels/gemm/cpu/row_groups.h"

namespace kpt::cpu {

// What a variant of a gradient operator runs.
struct GradientKernels {
  LinearKernel gemm = nullptr;
  void (*transpose)(const RowMatrix&, int64_t, int64_t, void*, int64_t) = nullptr;
  void (*column_sums)(const RowMatrix&, int64_t, int64_t, void*) = nullptr;
  void (*emit)(const Epilogue&, const float*, const float*, int64_t, int64_t, int64_t, int64_t,
               int64_t) = nullptr;
};

// Chooses for tensors of this dtype, as RunFirst does for the operator.
Status ChooseGradientKernels(const char* op, const LaunchContext& ctx, DType dtype,
                             GradientKernels* kernels);
std::vector<VariantInfo> GradientVariants();

// All return false when scratch memory could not be had. Each result is one sum in float, rounded
// once; it depends neither on the number of threads nor on the other groups.

// out rows of each group = grad rows W[group]; weight [N, K] each.
bool GradientOfInput(int num_threads, const GradientKernels& kernels, const RowMatrix& grad,
                     const GroupMatrices& weight, const std::vector<RowGroup>& groups,
                     const RowMatrix& out);

// out[group] = (grad rows)^T (x rows), [N, K] each; zeros for a group of no rows.
bool GradientOfWeight(int num_threads, const GradientKernels& kernels, const RowMatrix& grad,
                      const RowMatrix& x, const std::vector<RowGroup>& groups,
                      const GroupMatrices& out);

// out [N], dtype of grad.
void GradientOfBias(int num_threads, const GradientKernels& kernels, const RowMatrix& grad,
                    void* out);

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_CPU_GRADIENT_PRODUCTS_H_
