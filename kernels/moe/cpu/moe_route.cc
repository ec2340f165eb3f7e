#include "kernels/moe/moe_route.h"

#include <cstring>
#include <string>

#include "kernels/base/buckets.h"
#include "kernels/base/scratch.h"
#include "kernels/moe/cpu/moe_checks.h"
#include "kernels/moe/cpu/moe_loops.h"

namespace kpt {

bool ParseRouteScore(const char* name, RouteScore* score) {
  if (std::strcmp(name, "softmax") == 0) {
    *score = RouteScore::kSoftmax;
    return true;
  }
  if (std::strcmp(name, "sigmoid") == 0) {
    *score = RouteScore::kSigmoid;
    return true;
  }
  return false;
}

namespace cpu {
namespace {

constexpr const char* kOp = "moe_route";
constexpr const char* kBackwardOp = "moe_route_backward";

using RowsFn = void (*)(const RouteJob&, int64_t, int64_t, float*);

template <RowsFn kRows>
Status Run(const LaunchContext& ctx, const RouteJob& job) {
  const int64_t floats = kRouteBuffers * RouteBufferFloats(job.experts);
  float* scratch = ScratchAs<float>(0, static_cast<size_t>(floats * ctx.num_threads));
  if (scratch == nullptr) return OutOfScratch(kOp);
  const int64_t grain = MoeGrain(8 * job.experts);
  const int64_t most = (job.rows + grain - 1) / grain;
  const int threads = most < ctx.num_threads ? static_cast<int>(most) : ctx.num_threads;
  Parallel(threads, [&](int thread, int all) {
    kRows(job, job.rows * thread / all, job.rows * (thread + 1) / all, scratch + thread * floats);
  });
  return Status();
}

#define KPT_RUN(ns) Run<ns::RouteRows>
constexpr Variant<RouteJob> kVariants[] = KPT_MOE_VARIANTS(KPT_RUN);
#undef KPT_RUN
#define KPT_RUN(ns) Run<ns::RouteBackwardRows>
constexpr Variant<RouteJob> kBackwardVariants[] = KPT_MOE_VARIANTS(KPT_RUN);
#undef KPT_RUN

Status Number(const char* arg, const std::string& expected, int64_t got) {
  return Status::InvalidArgument(Argument(kOp, arg) + "must be " + expected + ", got " +
                                 std::to_string(got));
}

Status CheckChoice(const MoeRouteArgs& a) {
  const int64_t experts = a.logits.dim(1);
  if (a.num_groups < 1 || experts % a.num_groups != 0) {
    return Number("num_groups", "a divisor of the " + std::to_string(experts) + " experts",
                  a.num_groups);
  }
  if (a.top_groups < 1 || a.top_groups > a.num_groups) {
    return Number("top_groups", "from 1 to " + std::to_string(a.num_groups), a.top_groups);
  }
  const int64_t eligible = experts / a.num_groups * a.top_groups;
  const int64_t top_k = a.indices.dim(-1);
  if (top_k < 1 || top_k > eligible) {
    return Number("top_k", "from 1 to " + std::to_string(eligible), top_k);
  }
  return Status();
}

RouteJob JobOf(const TensorView& logits) {
  RouteJob job;
  job.rows = logits.dim(0);
  job.experts = logits.dim(1);
  job.dtype = logits.dtype;
  job.logits = logits.data;
  job.ld_logits = logits.stride(0);
  return job;
}

}  // namespace

Status MoeRoute(const LaunchContext& ctx, const MoeRouteArgs& a) {
  KPT_RETURN_IF_ERROR(CheckRowMatrix(kOp, "logits", a.logits));
  KPT_RETURN_IF_ERROR(CheckChoice(a));
  RouteJob job = JobOf(a.logits);
  job.top_k = a.indices.dim(1);
  KPT_RETURN_IF_ERROR(CheckMatrix(kOp, "weights", a.weights, job.rows, job.top_k, job.dtype));
  KPT_RETURN_IF_ERROR(CheckMatrix(kOp, "indices", a.indices, job.rows, job.top_k, DType::kInt64));
  if (a.bias.present()) {
    if (a.bias.dtype != DType::kFloat32) {
      return Status::TypeError(Argument(kOp, "bias") + "must have dtype float32, got " +
                               Name(a.bias.dtype));
    }
    if (a.bias.rank != 1 || a.bias.dim(0) != job.experts ||
        (job.experts > 1 && a.bias.stride(0) != 1)) {
      return Status::InvalidArgument(Argument(kOp, "bias") + "must be dense and have shape [" +
                                     std::to_string(job.experts) + "], got " + ShapeText(a.bias));
    }
    job.bias = a.bias.as<float>();
  }
  KPT_RETURN_IF_ERROR(CheckOutput(kOp, "weights", a.weights, {&a.logits, &a.bias, &a.indices}));
  KPT_RETURN_IF_ERROR(CheckOutput(kOp, "indices", a.indices, {&a.logits, &a.bias}));
  job.weights = a.weights.mutable_data();
  job.ld_weights = a.weights.stride(0);
  job.indices = a.indices.as_mutable<int64_t>();
  job.ld_indices = a.indices.stride(0);
  job.score = a.score;
  job.renormalize = a.renormalize;
  job.num_groups = a.num_groups;
  job.top_groups = a.top_groups;
  job.scale = a.scale;
  return RunFirst(kOp, kVariants, ctx, job);
}

std::vector<VariantInfo> MoeRouteVariants() { return ListVariants(kVariants); }

Status MoeRouteBackward(const LaunchContext& ctx, const MoeRouteBackwardArgs& a) {
  KPT_RETURN_IF_ERROR(CheckRowMatrix(kBackwardOp, "logits", a.logits));
  RouteJob job = JobOf(a.logits);
  std::vector<int64_t> keys;
  KPT_RETURN_IF_ERROR(
      ReadKeys(kBackwardOp, "indices", a.indices, 0, job.experts, "experts", &keys));
  job.top_k = a.indices.dim(1);
  KPT_RETURN_IF_ERROR(
      CheckMatrix(kBackwardOp, "indices", a.indices, job.rows, job.top_k, DType::kInt64));
  KPT_RETURN_IF_ERROR(
      CheckMatrix(kBackwardOp, "grad_weights", a.grad_weights, job.rows, job.top_k, job.dtype));
  KPT_RETURN_IF_ERROR(CheckLike(kBackwardOp, "grad_logits", a.grad_logits, "logits", a.logits));
  KPT_RETURN_IF_ERROR(CheckOutput(kBackwardOp, "grad_logits", a.grad_logits,
                                  {&a.logits, &a.grad_weights, &a.indices}));
  job.weights = const_cast<void*>(a.grad_weights.data);
  job.ld_weights = a.grad_weights.stride(0);
  job.indices = keys.data();
  job.ld_indices = job.top_k;
  job.score = a.score;
  job.renormalize = a.renormalize;
  job.scale = a.scale;
  job.grad = a.grad_logits.mutable_data();
  job.ld_grad = a.grad_logits.stride(0);
  return RunFirst(kBackwardOp, kBackwardVariants, ctx, job);
}

std::vector<VariantInfo> MoeRouteBackwardVariants() { return ListVariants(kBackwardVariants); }

}  // namespace cpu
}  // namespace kpt
