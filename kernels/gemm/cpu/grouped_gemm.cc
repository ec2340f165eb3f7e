#include "kernels/gemm/grouped_gemm.h"

#include <string>
#include <vector>

#include "kernels/base/row_checks.h"
#include "kernels/gemm/cpu/linear_problems.h"
#include "kernels/gemm/cpu/row_groups.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "grouped_gemm";

struct Job {
  RowMatrix x;
  GroupMatrices weight;
  RowMatrix out;
  std::vector<RowGroup> groups;
};

template <Isa kIsa>
Status Run(const LaunchContext& ctx, const Job& job) {
  std::vector<LinearProblem> problems;
  for (size_t i = 0; i < job.groups.size(); ++i) {
    const RowGroup& group = job.groups[i];
    if (group.begin == group.end) continue;
    LinearProblem p;
    p.g.m = group.end - group.begin;
    p.g.k = job.x.cols;
    p.g.x = job.x.At(group.begin, 0);
    p.g.x_dtype = job.x.dtype;
    p.g.ldx = job.x.ld;
    p.g.weight = job.weight.Of(i).data;
    p.g.ldw = job.weight.first.ld;
    p.g.epilogue.y = const_cast<void*>(job.out.At(group.begin, 0));
    p.g.epilogue.y_dtype = job.out.dtype;
    p.g.epilogue.ldy = job.out.ld;
    p.g.epilogue.n = job.out.cols;
    p.kernel = ChooseLinearKernel(kIsa, p.g);
    problems.push_back(p);
  }
  if (!RunLinearProblems(ctx.num_threads, problems)) {
    return Status::ResourceExhausted(std::string(kOp) + ": no memory for scratch buffers");
  }
  ClearOthers(ctx.num_threads, job.out, job.groups);
  return Status();
}

#if defined(KPT_HAVE_X86_VARIANTS)
bool IsBf16(const LaunchContext&, const Job& job) { return job.x.dtype == DType::kBFloat16; }
#endif

constexpr Variant<Job> kVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"amx_bf16", Isa::kAmx, IsBf16, Run<Isa::kAmx>},
    {"avx512_bf16", Isa::kAvx512Bf16, IsBf16, Run<Isa::kAvx512Bf16>},
    {"avx512", Isa::kAvx512, nullptr, Run<Isa::kAvx512>},
    {"avx2", Isa::kAvx2, nullptr, Run<Isa::kAvx2>},
#endif
    {"baseline", Isa::kBaseline, nullptr, Run<Isa::kBaseline>},
};

}  // namespace

Status GroupedGemm(const LaunchContext& ctx, const GroupedGemmArgs& args) {
  Job job;
  KPT_RETURN_IF_ERROR(ReadGroups(kOp, args.x, args.weight, args.offsets, args.masked, &job.groups));
  TensorView like = args.x;
  like.shape[1] = args.weight.dim(1);
  KPT_RETURN_IF_ERROR(CheckLike(kOp, "out", args.out, "x weight[0]^T", like));
  if (args.out.size() == 0) return Status();
  KPT_RETURN_IF_ERROR(CheckWritesOnce(kOp, "out", args.out));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "out", args.out, "x", args.x, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "out", args.out, "weight", args.weight, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "out", args.out, "offsets", args.offsets, false));
  job.x = AsRowMatrix(args.x);
  job.weight = AsGroupMatrices(args.weight);
  job.out = AsRowMatrix(args.out);
  return RunFirst(kOp, kVariants, ctx, job);
}

std::vector<VariantInfo> GroupedGemmVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu
