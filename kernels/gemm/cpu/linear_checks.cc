#include "kernels/gemm/cpu/linear_checks.h"

#include <string>

namespace kpt::cpu {
namespace {

bool IsSupported(ActivationKind kind) {
  switch (kind) {
    case ActivationKind::kNone:
    case ActivationKind::kRelu:
    case ActivationKind::kGelu:
    case ActivationKind::kGeluTanh:
    case ActivationKind::kSilu:
    case ActivationKind::kSwiglu:
    case ActivationKind::kGeglu:
      return true;
    default:
      return false;
  }
}

Status Invalid(const char* op, const char* arg, const std::string& expected,
               const TensorView& got) {
  return Status::InvalidArgument(Argument(op, arg) + "must " + expected + ", got " +
                                 ShapeText(got));
}

}  // namespace

Status CheckLinearInput(const char* op, const char* arg, const TensorView& t, const TensorView& x,
                        int min_rank) {
  if (t.dtype != x.dtype) {
    return Status::TypeError(Argument(op, arg) + "must have dtype " + Name(x.dtype) +
                             " like 'x', got " + Name(t.dtype));
  }
  return CheckRows(op, arg, t, min_rank);
}

Status CheckLinear(const char* op, const TensorView& x, const TensorView& weight,
                   const TensorView& bias, ActivationKind activation, TensorView* out) {
  KPT_RETURN_IF_ERROR(CheckRows(op, "x", x, 1));
  KPT_RETURN_IF_ERROR(CheckLinearInput(op, "weight", weight, x, 2));
  if (!IsSupported(activation)) {
    return Status::InvalidArgument(Argument(op, "activation") +
                                   "must be one of none, relu, gelu, gelu_tanh, silu, swiglu, "
                                   "geglu");
  }
  if (weight.rank != 2 || weight.dim(1) != x.dim(-1)) {
    return Invalid(op, "weight", "have shape [N, " + std::to_string(x.dim(-1)) + "]", weight);
  }
  if (IsGated(activation) && weight.dim(0) % 2 != 0) {
    return Invalid(op, "weight", "have an even number of rows for a gated activation", weight);
  }
  if (bias.present()) {
    KPT_RETURN_IF_ERROR(CheckLinearInput(op, "bias", bias, x, 1));
    if (bias.rank != 1 || bias.dim(0) != weight.dim(0)) {
      return Invalid(op, "bias", "have shape [" + std::to_string(weight.dim(0)) + "]", bias);
    }
  }
  *out = x;
  out->shape[out->rank - 1] = IsGated(activation) ? weight.dim(0) / 2 : weight.dim(0);
  return Status();
}

Status CheckGradients(const char* op, std::initializer_list<NamedTensor> gradients,
                      std::initializer_list<NamedTensor> inputs) {
  for (const NamedTensor& g : gradients) {
    if (!g.tensor->present()) continue;
    KPT_RETURN_IF_ERROR(CheckWritesOnce(op, g.name, *g.tensor));
    for (const NamedTensor& in : inputs) {
      KPT_RETURN_IF_ERROR(CheckOverlap(op, g.name, *g.tensor, in.name, *in.tensor, false));
    }
    for (const NamedTensor& other : gradients) {
      if (&other == &g) break;
      KPT_RETURN_IF_ERROR(CheckOverlap(op, g.name, *g.tensor, other.name, *other.tensor, false));
    }
  }
  return Status();
}

}  // namespace kpt::cpu
