// What the four norms check, on any backend.
#ifndef KPT_KERNELS_NORM_NORM_CHECKS_H_
#define KPT_KERNELS_NORM_NORM_CHECKS_H_

#include <string>

#include "kernels/base/row_checks.h"
#include "kernels/norm/norm_job.h"

namespace kpt {

// The arguments of any of the four; absent views where an operator has none.
struct NormTensors {
  TensorView y, new_residual, x, residual, weight, bias;
};

inline Status CheckParam(const char* op, const char* arg, const TensorView& param,
                         const TensorView& x) {
  if (!param.present()) return Status();
  if (param.rank != 1 || param.shape[0] != x.dim(-1)) {
    return Status::InvalidArgument(Argument(op, arg) + "must have shape [" +
                                   std::to_string(x.dim(-1)) + "], got " + ShapeText(param));
  }
  if (param.dtype != x.dtype && param.dtype != DType::kFloat32) {
    return Status::TypeError(Argument(op, arg) + "must have dtype " + Name(x.dtype) +
                             " or float32, got " + Name(param.dtype));
  }
  return CheckRows(op, arg, param, 1);
}

inline Status MakeNormJob(const char* op, const NormTensors& t, float eps, bool subtract_mean,
                          NormJob* job) {
  KPT_RETURN_IF_ERROR(CheckRows(op, "x", t.x, 1));
  KPT_RETURN_IF_ERROR(CheckLike(op, "y", t.y, "x", t.x));
  KPT_RETURN_IF_ERROR(CheckParam(op, "weight", t.weight, t.x));
  KPT_RETURN_IF_ERROR(CheckParam(op, "bias", t.bias, t.x));
  const bool add = t.residual.present();
  if (add) {
    KPT_RETURN_IF_ERROR(CheckLike(op, "residual", t.residual, "x", t.x));
    KPT_RETURN_IF_ERROR(CheckLike(op, "new_residual", t.new_residual, "x", t.x));
  }
  if (t.x.size() > 0) {
    const TensorView* outs[] = {&t.y, &t.new_residual};
    const char* names[] = {"y", "new_residual"};
    for (int i = 0; i < (add ? 2 : 1); ++i) {
      KPT_RETURN_IF_ERROR(CheckWritesOnce(op, names[i], *outs[i]));
      KPT_RETURN_IF_ERROR(CheckOverlap(op, names[i], *outs[i], "x", t.x, true));
      KPT_RETURN_IF_ERROR(CheckOverlap(op, names[i], *outs[i], "residual", t.residual, true));
      KPT_RETURN_IF_ERROR(CheckOverlap(op, names[i], *outs[i], "weight", t.weight, false));
      KPT_RETURN_IF_ERROR(CheckOverlap(op, names[i], *outs[i], "bias", t.bias, false));
    }
    if (add) {
      KPT_RETURN_IF_ERROR(CheckOverlap(op, "y", t.y, "new_residual", t.new_residual, false));
    }
  }
  job->plan = PlanRows<NormJob::kNumTensors>({&t.y, &t.x, &t.new_residual, &t.residual});
  job->cols = t.x.dim(-1);
  job->dtype = t.x.dtype;
  job->y = const_cast<void*>(t.y.data);
  job->x = t.x.data;
  job->sum = add ? const_cast<void*>(t.new_residual.data) : nullptr;
  job->residual = add ? t.residual.data : nullptr;
  job->weight = t.weight.present() ? t.weight.data : nullptr;
  job->weight_dtype = t.weight.dtype;
  job->bias = t.bias.present() ? t.bias.data : nullptr;
  job->bias_dtype = t.bias.dtype;
  job->subtract_mean = subtract_mean;
  // In place the lines are in the cache already.
  job->stream = job->y != job->x && t.x.size() * ItemSize(t.x.dtype) >= kStreamBytes;
  job->eps = eps;
  return Status();
}

}  // namespace kpt

#endif  // KPT_KERNELS_NORM_NORM_CHECKS_H_
