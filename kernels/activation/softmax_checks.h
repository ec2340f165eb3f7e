// What softmax checks, on any backend.
#ifndef KPT_KERNELS_ACTIVATION_SOFTMAX_CHECKS_H_
#define KPT_KERNELS_ACTIVATION_SOFTMAX_CHECKS_H_

#include "kernels/activation/softmax.h"
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

}  // namespace kpt

#endif  // KPT_KERNELS_ACTIVATION_SOFTMAX_CHECKS_H_
