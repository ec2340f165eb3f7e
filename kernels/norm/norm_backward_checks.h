// What the norms' gradients check, on any backend.
#ifndef KPT_KERNELS_NORM_NORM_BACKWARD_CHECKS_H_
#define KPT_KERNELS_NORM_NORM_BACKWARD_CHECKS_H_

#include "kernels/base/row_checks.h"
#include "kernels/norm/norm_backward_job.h"
#include "kernels/norm/norm_checks.h"

namespace kpt {

// The arguments of either; absent views where an operator has none.
struct NormBackwardTensors {
  TensorView grad_x, grad_weight, grad_bias, grad_y, x, weight, bias, grad_new_residual;
};

inline Status MakeNormBackwardJob(const char* op, NormBackwardTensors t, float eps,
                                  bool subtract_mean, NormBackwardJob* job) {
  KPT_RETURN_IF_ERROR(CheckRows(op, "x", t.x, 1));
  KPT_RETURN_IF_ERROR(CheckLike(op, "grad_y", t.grad_y, "x", t.x));
  KPT_RETURN_IF_ERROR(CheckLike(op, "grad_x", t.grad_x, "x", t.x));
  KPT_RETURN_IF_ERROR(CheckParam(op, "weight", t.weight, t.x));
  KPT_RETURN_IF_ERROR(CheckParam(op, "bias", t.bias, t.x));
  // An empty gradient is one that is not wanted.
  for (TensorView* view : {&t.grad_weight, &t.grad_bias}) {
    if (view->present() && view->size() == 0) *view = TensorView();
  }
  KPT_RETURN_IF_ERROR(CheckParam(op, "grad_weight", t.grad_weight, t.x));
  KPT_RETURN_IF_ERROR(CheckParam(op, "grad_bias", t.grad_bias, t.x));
  if (t.grad_new_residual.present()) {
    KPT_RETURN_IF_ERROR(CheckLike(op, "grad_new_residual", t.grad_new_residual, "x", t.x));
  }
  const TensorView* outs[] = {&t.grad_x, &t.grad_weight, &t.grad_bias};
  const char* names[] = {"grad_x", "grad_weight", "grad_bias"};
  const TensorView* ins[] = {&t.x, &t.grad_y, &t.grad_new_residual, &t.weight};
  const char* in_names[] = {"x", "grad_y", "grad_new_residual", "weight"};
  for (int i = 0; i < 3; ++i) {
    if (!outs[i]->present() || outs[i]->size() == 0) continue;
    KPT_RETURN_IF_ERROR(CheckWritesOnce(op, names[i], *outs[i]));
    for (int j = 0; j < 4; ++j) {
      const bool in_place = i == 0 && j < 3;
      KPT_RETURN_IF_ERROR(CheckOverlap(op, names[i], *outs[i], in_names[j], *ins[j], in_place));
    }
    for (int j = 0; j < i; ++j) {
      KPT_RETURN_IF_ERROR(CheckOverlap(op, names[i], *outs[i], names[j], *outs[j], false));
    }
  }
  job->plan =
      PlanRows<NormBackwardJob::kNumTensors>({&t.grad_x, &t.grad_y, &t.x, &t.grad_new_residual});
  job->cols = t.x.dim(-1);
  job->dtype = t.x.dtype;
  job->grad_x = const_cast<void*>(t.grad_x.data);
  job->grad_y = t.grad_y.data;
  job->x = t.x.data;
  job->grad_sum = t.grad_new_residual.present() ? t.grad_new_residual.data : nullptr;
  job->weight = t.weight.present() ? t.weight.data : nullptr;
  job->weight_dtype = t.weight.dtype;
  if (t.grad_weight.present()) {
    job->grad_weight = const_cast<void*>(t.grad_weight.data);
    job->grad_weight_dtype = t.grad_weight.dtype;
  }
  if (t.grad_bias.present()) {
    job->grad_bias = const_cast<void*>(t.grad_bias.data);
    job->grad_bias_dtype = t.grad_bias.dtype;
  }
  job->subtract_mean = subtract_mean;
  job->eps = eps;
  return Status();
}

}  // namespace kpt

#endif  // KPT_KERNELS_NORM_NORM_BACKWARD_CHECKS_H_
