// What softmax and its gradient check, on any backend.
#ifndef KPT_KERNELS_ACTIVATION_SOFTMAX_CHECKS_H_
#define KPT_KERNELS_ACTIVATION_SOFTMAX_CHECKS_H_

#include "kernels/activation/softmax.h"
#include "kernels/activation/softmax_backward.h"
#include "kernels/activation/softmax_job.h"
#include "kernels/base/row_checks.h"

namespace kpt {

// An empty problem leaves the job as it was.
inline Status MakeSoftmaxJob(const char* op, const backend::SoftmaxArgs& args, SoftmaxJob* job) {
  KPT_RETURN_IF_ERROR(CheckRows(op, "x", args.x, 1));
  KPT_RETURN_IF_ERROR(CheckLike(op, "out", args.out, "x", args.x));
  if (args.x.size() == 0) return Status();
  KPT_RETURN_IF_ERROR(CheckWritesOnce(op, "out", args.out));
  KPT_RETURN_IF_ERROR(CheckOverlap(op, "out", args.out, "x", args.x, true));
  job->plan = PlanRows<SoftmaxJob::kNumTensors>({&args.out, &args.x});
  job->cols = args.x.dim(-1);
  job->dtype = args.x.dtype;
  job->scale = args.scale;
  job->out = args.out.mutable_data();
  job->x = args.x.data;
  job->stream = job->out != job->x && args.x.size() * ItemSize(job->dtype) >= kStreamBytes;
  return Status();
}

inline Status MakeSoftmaxJob(const char* op, const backend::SoftmaxBackwardArgs& args,
                             SoftmaxBackwardJob* job) {
  KPT_RETURN_IF_ERROR(CheckRows(op, "out", args.out, 1));
  KPT_RETURN_IF_ERROR(CheckLike(op, "grad_out", args.grad_out, "out", args.out));
  KPT_RETURN_IF_ERROR(CheckLike(op, "grad_x", args.grad_x, "out", args.out));
  if (args.out.size() == 0) return Status();
  KPT_RETURN_IF_ERROR(CheckWritesOnce(op, "grad_x", args.grad_x));
  KPT_RETURN_IF_ERROR(CheckOverlap(op, "grad_x", args.grad_x, "out", args.out, true));
  KPT_RETURN_IF_ERROR(CheckOverlap(op, "grad_x", args.grad_x, "grad_out", args.grad_out, true));
  job->plan = PlanRows<SoftmaxBackwardJob::kNumTensors>({&args.grad_x, &args.grad_out, &args.out});
  job->cols = args.out.dim(-1);
  job->dtype = args.out.dtype;
  job->scale = args.scale;
  job->grad_x = args.grad_x.mutable_data();
  job->grad_out = args.grad_out.data;
  job->out = args.out.data;
  job->stream = job->grad_x != job->out && job->grad_x != job->grad_out &&
                args.out.size() * ItemSize(job->dtype) >= kStreamBytes;
  return Status();
}

}  // namespace kpt

#endif  // KPT_KERNELS_ACTIVATION_SOFTMAX_CHECKS_H_
