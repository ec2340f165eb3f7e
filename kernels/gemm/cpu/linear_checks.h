// The checks that the linear layers and their gradients share.
#ifndef KPT_KERNELS_GEMM_CPU_LINEAR_CHECKS_H_
#define KPT_KERNELS_GEMM_CPU_LINEAR_CHECKS_H_

#include <initializer_list>

#include "kernels/base/activation_kind.h"
#include "kernels/base/row_checks.h"
#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"

namespace kpt::cpu {

// A tensor of the dtype of x with a dense last dimension and at least `min_rank` dimensions.
Status CheckLinearInput(const char* op, const char* arg, const TensorView& t, const TensorView& x,
                        int min_rank);

// Checks the inputs of a linear layer, bias optional; *out gets the shape and dtype of its output,
// and strides of a dense last dimension.
Status CheckLinear(const char* op, const TensorView& x, const TensorView& weight,
                   const TensorView& bias, ActivationKind activation, TensorView* out);

struct NamedTensor {
  const char* name;
  const TensorView* tensor;
};

// Gradients, as far as they are present, must overlap neither themselves nor each other nor inputs.
Status CheckGradients(const char* op, std::initializer_list<NamedTensor> gradients,
                      std::initializer_list<NamedTensor> inputs);

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_CPU_LINEAR_CHECKS_H_
