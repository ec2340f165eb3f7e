// Cross entropy outside the loops over logits: what the losses over stored and over unstored logits
// share. kernels/loss/cross_entropy.h has the formula.
//
// A kernel brings every row to a CrossEntropyRow, some logits at a time; FinishRows makes losses of
// them. Backwards, PlanGradients gives the numbers of each row that a kernel needs for
//   grad x[j] = grad_lse p + (grad_loss p - uniform - (j == target ? on_target : 0))
// with p = exp(x[j] - lse); what stands in brackets cancels for the target of a certain row.
#ifndef KPT_KERNELS_BASE_CROSS_ENTROPY_ROWS_H_
#define KPT_KERNELS_BASE_CROSS_ENTROPY_ROWS_H_

#include <cstdint>
#include <limits>

#include "kernels/base/status.h"
#include "kernels/base/tensor_view.h"

namespace kpt {

enum class Reduction { kNone, kSum, kMean };

inline constexpr const char* kReductions = "none, sum, mean";

// False where `name` is none of kReductions.
bool ParseReduction(const char* name, Reduction* reduction);

struct CrossEntropyOptions {
  int64_t ignore_index = -100;
  float label_smoothing = 0.0f;  // in [0, 1]
  float z_loss = 0.0f;           // finite, not negative
  Reduction reduction = Reduction::kMean;
};

// The targets of rows 0, 1, ...: int64, any stride.
struct Targets {
  const int64_t* data = nullptr;
  int64_t stride = 0;

  int64_t operator[](int64_t row) const { return data[row * stride]; }
};

inline Targets TargetsOf(const TensorView& target) {
  return {target.as<int64_t>(), target.stride(0)};
}

// What has been seen of one row of logits. Plain data: loops of every instruction set update it.
struct CrossEntropyRow {
  float max = -std::numeric_limits<float>::infinity();
  float target = 0.0f;  // the logit of the target
  double sum = 0.0;     // of exp(x - max)
  double total = 0.0;   // of x - max; kept only under label smoothing
};

// Of one row; a row that is ignored has target -1 and gets a gradient of zeros.
struct CrossEntropyGradient {
  int64_t target = -1;
  float lse = 0.0f;
  float grad_loss = 0.0f;
  float grad_lse = 0.0f;
  float uniform = 0.0f;
  float on_target = 0.0f;
};

Status CheckOptions(const char* op, const CrossEntropyOptions& options);

// target: [rows] of int64, each in [0, classes) or ignore_index; the message names the first that
// is not, and its position.
Status CheckTargets(const char* op, const TensorView& target, int64_t rows, int64_t classes,
                    const CrossEntropyOptions& options);

// `out` (loss, or its gradient): float, [rows] without a reduction, else [].
Status CheckReduced(const char* op, const char* arg, const TensorView& out, int64_t rows,
                    Reduction reduction);

// A float vector of [rows].
Status CheckRowVector(const char* op, const char* arg, const TensorView& v, int64_t rows);

// Losses of rows [0, rows), summed in double in their order; lse may be absent. An ignored row has
// loss 0 and lse 0.
void FinishRows(const CrossEntropyOptions& options, const CrossEntropyRow* states, Targets targets,
                int64_t rows, int64_t classes, const MutableTensorView& loss,
                const MutableTensorView& lse);

// grads: [rows], from the gradients of the loss and of lse.
void PlanGradients(const CrossEntropyOptions& options, Targets targets, int64_t rows,
                   int64_t classes, const TensorView& lse, const TensorView& grad_loss,
                   const TensorView& grad_lse, CrossEntropyGradient* grads);

}  // namespace kpt

#endif  // KPT_KERNELS_BASE_CROSS_ENTROPY_ROWS_H_
