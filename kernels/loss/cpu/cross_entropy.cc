#include "kernels/loss/cross_entropy.h"

#include <string>

#include "kernels/base/scratch.h"
#include "kernels/loss/cpu/cross_entropy_launch.h"

namespace kpt::cpu {
namespace {

constexpr Variant<CrossEntropyJob> kVariants[] = KPT_CROSS_ENTROPY_VARIANTS(CrossEntropyRows);

}  // namespace

Status CrossEntropy(const LaunchContext& ctx, const CrossEntropyArgs& args) {
  const int64_t rows = args.logits.rank == 2 ? args.logits.dim(0) : 0;
  KPT_RETURN_IF_ERROR(CheckClassifier(args.op, args.logits, args.target, args.options));
  KPT_RETURN_IF_ERROR(CheckReduced(args.op, "loss", args.loss, rows, args.options.reduction));
  KPT_RETURN_IF_ERROR(CheckWritesOnce(args.op, "loss", args.loss));
  KPT_RETURN_IF_ERROR(CheckOverlap(args.op, "loss", args.loss, "logits", args.logits, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(args.op, "loss", args.loss, "target", args.target, false));
  if (args.lse.present()) {
    KPT_RETURN_IF_ERROR(CheckRowVector(args.op, "lse", args.lse, rows));
    KPT_RETURN_IF_ERROR(CheckWritesOnce(args.op, "lse", args.lse));
    KPT_RETURN_IF_ERROR(CheckOverlap(args.op, "lse", args.lse, "logits", args.logits, false));
    KPT_RETURN_IF_ERROR(CheckOverlap(args.op, "lse", args.lse, "target", args.target, false));
    KPT_RETURN_IF_ERROR(CheckOverlap(args.op, "lse", args.lse, "loss", args.loss, false));
  }
  CrossEntropyJob job;
  job.rows = rows;
  job.cols = args.logits.dim(1);
  job.dtype = args.logits.dtype;
  job.logits = args.logits.data;
  job.ld = args.logits.stride(0);
  job.targets = TargetsOf(args.target);
  job.ignore_index = args.options.ignore_index;
  job.total = args.options.label_smoothing != 0.0f;
  job.states = ScratchAs<CrossEntropyRow>(0, static_cast<size_t>(rows) + 1);
  if (job.states == nullptr) {
    return Status::ResourceExhausted(std::string(args.op) + ": no memory for scratch buffers");
  }
  KPT_RETURN_IF_ERROR(RunFirst(args.op, kVariants, ctx, job));
  FinishRows(args.options, job.states, job.targets, rows, job.cols, args.loss, args.lse);
  return Status();
}

std::vector<VariantInfo> CrossEntropyVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu
