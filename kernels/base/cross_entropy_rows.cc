#include "kernels/base/cross_entropy_rows.h"

#include <cmath>
#include <cstring>
#include <string>

#include "kernels/base/row_checks.h"

namespace kpt {
namespace {

int64_t CountKept(Targets targets, int64_t rows, int64_t ignore_index) {
  int64_t kept = 0;
  for (int64_t r = 0; r < rows; ++r) kept += targets[r] != ignore_index ? 1 : 0;
  return kept;
}

Status CheckFloats(const char* op, const char* arg, const TensorView& v, bool is_vector,
                   int64_t rows) {
  if (v.dtype != DType::kFloat32) {
    return Status::TypeError(Argument(op, arg) + "must have dtype float32, got " + Name(v.dtype));
  }
  if (is_vector ? v.rank == 1 && v.dim(0) == rows : v.rank == 0) return Status();
  return Status::InvalidArgument(Argument(op, arg) + "must have shape [" +
                                 (is_vector ? std::to_string(rows) : "") + "], got " +
                                 ShapeText(v));
}

}  // namespace

bool ParseReduction(const char* name, Reduction* reduction) {
  constexpr const char* kNames[] = {"none", "sum", "mean"};
  constexpr Reduction kKinds[] = {Reduction::kNone, Reduction::kSum, Reduction::kMean};
  for (int i = 0; i < 3; ++i) {
    if (std::strcmp(name, kNames[i]) != 0) continue;
    *reduction = kKinds[i];
    return true;
  }
  return false;
}

Status CheckOptions(const char* op, const CrossEntropyOptions& options) {
  if (!(options.label_smoothing >= 0.0f && options.label_smoothing <= 1.0f)) {
    return Status::InvalidArgument(Argument(op, "label_smoothing") + "must be in [0, 1], got " +
                                   std::to_string(options.label_smoothing));
  }
  if (!(options.z_loss >= 0.0f && options.z_loss <= std::numeric_limits<float>::max())) {
    return Status::InvalidArgument(Argument(op, "z_loss") +
                                   "must be finite and not negative, got " +
                                   std::to_string(options.z_loss));
  }
  return Status();
}

Status CheckTargets(const char* op, const TensorView& target, int64_t rows, int64_t classes,
                    const CrossEntropyOptions& options) {
  if (target.dtype != DType::kInt64) {
    return Status::TypeError(Argument(op, "target") + "must have dtype int64, got " +
                             Name(target.dtype));
  }
  if (target.rank != 1 || target.dim(0) != rows) {
    return Status::InvalidArgument(Argument(op, "target") + "must have shape [" +
                                   std::to_string(rows) + "], got " + ShapeText(target));
  }
  const Targets targets = TargetsOf(target);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t t = targets[r];
    if ((t >= 0 && t < classes) || t == options.ignore_index) continue;
    return Status::InvalidArgument(Argument(op, "target") + "must hold classes in [0, " +
                                   std::to_string(classes) + ") or ignore_index " +
                                   std::to_string(options.ignore_index) + ", got " +
                                   std::to_string(t) + " at position " + std::to_string(r));
  }
  return Status();
}

Status CheckReduced(const char* op, const char* arg, const TensorView& out, int64_t rows,
                    Reduction reduction) {
  return CheckFloats(op, arg, out, reduction == Reduction::kNone, rows);
}

Status CheckRowVector(const char* op, const char* arg, const TensorView& v, int64_t rows) {
  return CheckFloats(op, arg, v, true, rows);
}

void FinishRows(const CrossEntropyOptions& options, const CrossEntropyRow* states, Targets targets,
                int64_t rows, int64_t classes, const MutableTensorView& loss,
                const MutableTensorView& lse) {
  const double smoothing = static_cast<double>(options.label_smoothing);
  const double z_loss = static_cast<double>(options.z_loss);
  double sum = 0.0;
  for (int64_t r = 0; r < rows; ++r) {
    double row_loss = 0.0;
    double row_lse = 0.0;
    if (targets[r] != options.ignore_index) {
      const CrossEntropyRow& s = states[r];
      // Differences first: all logits may be large. Each term apart, so that one that is off does
      // not turn an infinity into NaN.
      const double max = static_cast<double>(s.max);
      const double log_sum = std::log(s.sum);
      row_lse = max + log_sum;
      row_loss = log_sum + (1.0 - smoothing) * (max - static_cast<double>(s.target));
      if (smoothing != 0.0) row_loss -= smoothing / static_cast<double>(classes) * s.total;
      if (z_loss != 0.0) row_loss += z_loss * row_lse * row_lse;
    }
    if (options.reduction == Reduction::kNone) {
      loss.as_mutable<float>()[r * loss.stride(0)] = static_cast<float>(row_loss);
    }
    if (lse.present()) lse.as_mutable<float>()[r * lse.stride(0)] = static_cast<float>(row_lse);
    sum += row_loss;
  }
  if (options.reduction == Reduction::kNone) return;
  if (options.reduction == Reduction::kMean) {
    sum /= static_cast<double>(CountKept(targets, rows, options.ignore_index));
  }
  *loss.as_mutable<float>() = static_cast<float>(sum);
}

void PlanGradients(const CrossEntropyOptions& options, Targets targets, int64_t rows,
                   int64_t classes, const TensorView& lse, const TensorView& grad_loss,
                   const TensorView& grad_lse, CrossEntropyGradient* grads) {
  const double smoothing = static_cast<double>(options.label_smoothing);
  const double z_loss = static_cast<double>(options.z_loss);
  double factor = 1.0;
  if (options.reduction == Reduction::kMean) {
    factor /= static_cast<double>(CountKept(targets, rows, options.ignore_index));
  }
  const bool each = options.reduction == Reduction::kNone;
  for (int64_t r = 0; r < rows; ++r) {
    grads[r] = CrossEntropyGradient();
    if (targets[r] == options.ignore_index) continue;
    CrossEntropyGradient& g = grads[r];
    const double grad =
        factor * static_cast<double>(grad_loss.as<float>()[each ? r * grad_loss.stride(0) : 0]);
    g.target = targets[r];
    g.lse = lse.as<float>()[r * lse.stride(0)];
    double lse_grad = static_cast<double>(grad_lse.as<float>()[r * grad_lse.stride(0)]);
    if (z_loss != 0.0) lse_grad += grad * 2.0 * z_loss * static_cast<double>(g.lse);
    g.grad_lse = static_cast<float>(lse_grad);
    g.grad_loss = static_cast<float>(grad);
    g.uniform = static_cast<float>(grad * smoothing / static_cast<double>(classes));
    // From the rounded numbers: a row's gradient of the loss sums to 0.
    g.on_target = static_cast<float>(static_cast<double>(g.grad_loss) -
                                     static_cast<double>(classes) * static_cast<double>(g.uniform));
  }
}

}  // namespace kpt
