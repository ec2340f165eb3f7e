#include "kernels/gemm/linear_cross_entropy.h"

#include <algorithm>
#include <string>

#include "kernels/base/parallel_for.h"
#include "kernels/base/row_checks.h"
#include "kernels/base/scratch.h"
#include "kernels/gemm/cpu/logit_block.h"
#include "kernels/gemm/cpu/row_groups.h"

namespace kpt::cpu {
namespace {

Status Check(const LinearCrossEntropyArgs& a) {
  KPT_RETURN_IF_ERROR(CheckLinearClassifier(a.op, a.hidden, a.weight, a.target, a.options));
  const int64_t rows = a.hidden.dim(0);
  KPT_RETURN_IF_ERROR(CheckReduced(a.op, "loss", a.loss, rows, a.options.reduction));
  KPT_RETURN_IF_ERROR(CheckWritesOnce(a.op, "loss", a.loss));
  if (a.lse.present()) {
    KPT_RETURN_IF_ERROR(CheckRowVector(a.op, "lse", a.lse, rows));
    KPT_RETURN_IF_ERROR(CheckWritesOnce(a.op, "lse", a.lse));
    KPT_RETURN_IF_ERROR(CheckOverlap(a.op, "lse", a.lse, "loss", a.loss, false));
  }
  const struct {
    const char* name;
    const TensorView* tensor;
  } inputs[] = {{"hidden", &a.hidden}, {"weight", &a.weight}, {"target", &a.target}};
  for (const auto& input : inputs) {
    KPT_RETURN_IF_ERROR(CheckOverlap(a.op, "loss", a.loss, input.name, *input.tensor, false));
    if (!a.lse.present()) continue;
    KPT_RETURN_IF_ERROR(CheckOverlap(a.op, "lse", a.lse, input.name, *input.tensor, false));
  }
  return Status();
}

}  // namespace

Status LinearCrossEntropy(const LaunchContext& ctx, const LinearCrossEntropyArgs& args) {
  KPT_RETURN_IF_ERROR(Check(args));
  LogitKernels kernels;
  KPT_RETURN_IF_ERROR(ChooseLogitKernels(args.op, ctx, args.hidden.dtype, &kernels));
  const RowMatrix hidden = AsRowMatrix(args.hidden);
  const RowMatrix weight = AsRowMatrix(args.weight);
  const Targets targets = TargetsOf(args.target);
  const int64_t rows = hidden.rows;
  const int64_t classes = weight.rows;
  LogitBlock block;
  block.ld = OddLines(std::min(classes, kBlockClasses), 4);
  const Temporary logits(static_cast<size_t>(std::min(rows, kBlockRows) * block.ld) * 4);
  const Temporary states(static_cast<size_t>(rows) * sizeof(CrossEntropyRow));
  const Status no_memory =
      Status::ResourceExhausted(std::string(args.op) + ": no memory for scratch buffers");
  if (logits.data() == nullptr || states.data() == nullptr) return no_memory;
  block.logits = static_cast<float*>(logits.data());
  CrossEntropyRow* all = static_cast<CrossEntropyRow*>(states.data());
  std::fill(all, all + rows, CrossEntropyRow());
  block.ignore_index = args.options.ignore_index;
  block.total = args.options.label_smoothing != 0.0f;
  for (int64_t r = 0; r < rows; r += block.rows) {
    block.rows = RowsOfBlock(rows, r);
    block.targets = {targets.data + r * targets.stride, targets.stride};
    block.states = all + r;
    for (block.first = 0; block.first < classes; block.first += block.classes) {
      block.classes = std::min(kBlockClasses, classes - block.first);
      if (!MultiplyLogits(ctx.num_threads, kernels.gemm, hidden.Rows(r, r + block.rows),
                          weight.Rows(block.first, block.first + block.classes), block)) {
        return no_memory;
      }
      ParallelFor(ctx.num_threads, block.rows, 4096 / block.classes + 1,
                  [&](int64_t begin, int64_t end) { kernels.update(block, begin, end); });
    }
  }
  FinishRows(args.options, all, targets, rows, classes, args.loss, args.lse);
  return Status();
}

std::vector<VariantInfo> LinearCrossEntropyVariants() { return LogitVariants(); }

}  // namespace kpt::cpu
