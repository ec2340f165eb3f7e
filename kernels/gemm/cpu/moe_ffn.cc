#include "kernels/gemm/moe_ffn.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/base/buckets.h"
#include "kernels/base/float_codec.h"
#include "kernels/base/parallel_for.h"
#include "kernels/base/row_checks.h"
#include "kernels/base/scratch.h"
#include "kernels/gemm/cpu/expert_rows.h"
#include "kernels/gemm/cpu/linear_problems.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "moe_ffn";

// The kernels use slots 0 and 1.
constexpr int kHiddenSlot = 2;
constexpr int kResultSlot = 3;
constexpr size_t kMostKept = size_t{256} << 20;  // bytes of results kept between calls

// Dot products along the rows of the weight serve few tokens an expert. Which kernel runs is a
// matter of the call's sizes alone, so that no token's bits depend on how many chose its expert.
constexpr int64_t kFewTokens = 16;
constexpr int64_t kMostTokens = 512;

// With fewer rows the float kernel sums in another order: groups are filled up with zeros.
constexpr int64_t kLeastRows = 4;

// Experts are taken together until they have this many rows: what is between their two layers then
// stays small, and so many rows keep all threads busy.
constexpr int64_t kBatchRows = 4096;

// One instruction set's kernels.
struct Kernels {
  LinearKernel rows;  // nullptr: the other one serves any number of rows alike
  LinearKernel panels;
  void (*sum)(const ExpertSums&, int64_t, int64_t);
};

// One layer of all experts.
struct Layer {
  const TensorView* weight;  // [E, N, K]
  const TensorView* bias;
  const TensorView* scale;
  ActivationKind activation;
};

struct Job {
  const MoeFfnArgs* args;
  std::vector<int64_t> keys;  // experts of the choices
  bool few;
};

Status OutOfScratch() {
  return Status::ResourceExhausted(std::string(kOp) + ": no memory for scratch buffers");
}

float ElementOf(const TensorView& t, int64_t at) {
  switch (t.dtype) {
    case DType::kFloat16:
      return DecodeHalf(t.as<uint16_t>()[at]);
    case DType::kBFloat16:
      return DecodeBf16(t.as<uint16_t>()[at]);
    default:
      return t.as<float>()[at];
  }
}

bool IsByte(DType dtype) { return ItemSize(dtype) == 1; }

// The scales of the rows of an expert's weight, in `room` where they are all one; nullptr: none.
const float* RowScales(const Layer& layer, int64_t expert, float* room) {
  const TensorView& scale = *layer.scale;
  if (!scale.present()) return nullptr;
  const float* of_expert = scale.as<float>() + expert * scale.stride(0);
  if (scale.rank == 2) return of_expert;
  std::fill_n(room, layer.weight->dim(1), *of_expert);
  return room;
}

LinearProblem ProblemOf(const Layer& layer, const float* scales, int64_t expert, int64_t rows,
                        const void* x, DType x_dtype, void* y, DType y_dtype, int64_t cols,
                        LinearKernel kernel) {
  const TensorView& w = *layer.weight;
  LinearProblem p;
  p.g.m = rows;
  p.g.k = w.dim(2);
  p.g.x = x;
  p.g.x_dtype = x_dtype;
  p.g.ldx = w.dim(2);
  p.g.bytes = IsByte(w.dtype);
  p.g.byte_dtype = w.dtype;
  p.g.weight = w.as<char>() + expert * w.stride(0) * ItemSize(w.dtype);
  p.g.ldw = w.stride(1);
  Epilogue& e = p.g.epilogue;
  e.y = y;
  e.y_dtype = y_dtype;
  e.ldy = cols;
  e.n = cols;
  e.activation = layer.activation;
  if (layer.bias->present()) {
    e.bias_dtype = layer.bias->dtype;
    e.bias = layer.bias->as<char>() + expert * layer.bias->stride(0) * ItemSize(e.bias_dtype);
  }
  e.scale = scales;
  p.kernel = kernel;
  return p;
}

// The rows of one expert within the results.
struct Group {
  int64_t expert;
  int64_t begin;  // of its rows
  int64_t rows;   // with those of zeros
};

// Copies the tokens of groups [first, last) to x, dense, with zeros at the end of each group.
void GatherTokens(int num_threads, const MoeFfnArgs& a, const Buckets& chosen, const Group* first,
                  const Group* last, char* x) {
  const int64_t item = ItemSize(a.x.dtype);
  const size_t bytes = static_cast<size_t>(a.x.dim(1) * item);
  const int64_t top_k = a.indices.dim(1);
  if (bytes == 0) return;
  ParallelFor(num_threads, last - first, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Group& group = first[i];
      const int64_t* items = chosen.items.data() + chosen.starts[group.expert];
      char* to = x + (group.begin - first->begin) * static_cast<int64_t>(bytes);
      const int64_t rows = chosen.size(group.expert);
      for (int64_t r = 0; r < rows; ++r, to += bytes) {
        std::memcpy(to, a.x.as<char>() + items[r] / top_k * a.x.stride(0) * item, bytes);
      }
      std::memset(to, 0, static_cast<size_t>(group.rows - rows) * bytes);
    }
  });
}

Status Run(const LaunchContext& ctx, const Job& job, const Kernels& kernels) {
  const MoeFfnArgs& a = *job.args;
  const int64_t experts = a.w_in.dim(0);
  const int64_t width = a.x.dim(1);
  const int64_t hidden = a.w_out.dim(2);
  const int64_t top_k = a.indices.dim(1);
  const Buckets chosen = SortIntoBuckets(job.keys, experts);
  const bool few = job.few && kernels.rows != nullptr;

  std::vector<Group> groups;
  std::vector<int64_t> row_of(job.keys.size());
  int64_t total = 0;
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t rows = chosen.size(e);
    if (rows == 0) continue;
    for (int64_t r = 0; r < rows; ++r) row_of[chosen.items[chosen.starts[e] + r]] = total + r;
    const int64_t filled = few || rows >= kLeastRows ? rows : kLeastRows;
    groups.push_back({e, total, filled});
    total += filled;
  }

  const size_t result_bytes = static_cast<size_t>(total * width + 16) * sizeof(float);
  const Temporary temporary(result_bytes > kMostKept ? result_bytes : 0);
  float* y = result_bytes > kMostKept ? static_cast<float*>(temporary.data())
                                      : static_cast<float*>(Scratch(kResultSlot, result_bytes));
  if (y == nullptr) return OutOfScratch();

  const Layer in = {&a.w_in, &a.b_in, &a.s_in, a.activation};
  const Layer out = {&a.w_out, &a.b_out, &a.s_out, ActivationKind::kNone};
  std::vector<float> scales;
  const LinearKernel kernel = few ? kernels.rows : kernels.panels;
  const int64_t item = ItemSize(a.x.dtype);
  for (size_t first = 0; first < groups.size();) {
    size_t last = first;
    int64_t rows = 0;
    for (; last < groups.size() && (last == first || rows < kBatchRows); ++last) {
      rows += groups[last].rows;
    }
    // Vectors that start in a row may end past the last one.
    const int64_t x_bytes = (rows * width * item + 127) / 64 * 64;
    char* x = static_cast<char*>(
        Scratch(kHiddenSlot, static_cast<size_t>(x_bytes + rows * hidden * item + 128)));
    if (x == nullptr) return OutOfScratch();
    char* h = x + x_bytes;
    GatherTokens(ctx.num_threads, a, chosen, &groups[first], &groups[last - 1] + 1, x);
    std::vector<LinearProblem> problems;
    for (const Layer* layer : {&in, &out}) {
      const int64_t weight_rows = layer->weight->dim(1);
      scales.resize((last - first) * static_cast<size_t>(weight_rows));
      problems.clear();
      for (size_t i = first; i < last; ++i) {
        const Group& g = groups[i];
        const int64_t at = g.begin - groups[first].begin;
        char* from = x + at * width * item;
        char* between = h + at * hidden * item;
        const float* scale = RowScales(*layer, g.expert, scales.data() + (i - first) * weight_rows);
        problems.push_back(layer == &in
                               ? ProblemOf(in, scale, g.expert, g.rows, from, a.x.dtype, between,
                                           a.x.dtype, hidden, kernel)
                               : ProblemOf(out, scale, g.expert, g.rows, between, a.x.dtype,
                                           y + g.begin * width, DType::kFloat32, width, kernel));
      }
      if (!RunLinearProblems(ctx.num_threads, problems)) return OutOfScratch();
    }
    first = last;
  }

  std::vector<float> weights(job.keys.size());
  for (int64_t t = 0; t < a.x.dim(0); ++t) {
    for (int64_t j = 0; j < top_k; ++j) {
      weights[t * top_k + j] =
          ElementOf(a.weights, t * a.weights.stride(0) + j * a.weights.stride(1));
    }
  }
  ExpertSums sums;
  sums.top_k = top_k;
  sums.cols = width;
  sums.y = y;
  sums.row_of = row_of.data();
  sums.weights = weights.data();
  sums.out = a.out.mutable_data();
  sums.dtype = a.out.dtype;
  sums.ld_out = a.out.stride(0);
  ParallelFor(ctx.num_threads, a.x.dim(0), 16384 / (width * (top_k + 1) + 1) + 1,
              [&](int64_t begin, int64_t end) { kernels.sum(sums, begin, end); });
  return Status();
}

#if defined(KPT_HAVE_X86_VARIANTS)
bool IsBf16(const LaunchContext&, const Job& job) { return job.args->x.dtype == DType::kBFloat16; }
bool IsBf16Throughout(const LaunchContext& ctx, const Job& job) {
  return IsBf16(ctx, job) && job.args->w_in.dtype == DType::kBFloat16;
}

Status RunAmx(const LaunchContext& ctx, const Job& job) {
  return Run(ctx, job, {nullptr, amx::Bf16Gemm, avx512::SumExperts});
}
Status RunAvx512Bf16(const LaunchContext& ctx, const Job& job) {
  const bool floats = FloatBeatsBf16Pairs() && ctx.force_variant == nullptr;
  return Run(ctx, job,
             {avx512_bf16::Bf16Rows, floats ? avx512::FloatGemm : avx512_bf16::Bf16Gemm,
              avx512::SumExperts});
}
#endif

#define KPT_RUN(ns)                                                       \
  [](const LaunchContext& ctx, const Job& job) {                          \
    return Run(ctx, job, {ns::FloatRows, ns::FloatGemm, ns::SumExperts}); \
  }

constexpr Variant<Job> kVariants[] = {
#if defined(KPT_HAVE_X86_VARIANTS)
    {"amx_bf16", Isa::kAmx, IsBf16Throughout, RunAmx},
    {"avx512_bf16", Isa::kAvx512Bf16, IsBf16, RunAvx512Bf16},
    {"avx512", Isa::kAvx512, nullptr, KPT_RUN(avx512)},
    {"avx2", Isa::kAvx2, nullptr, KPT_RUN(avx2)},
#endif
    {"baseline", Isa::kBaseline, nullptr, KPT_RUN(baseline)},
};
#undef KPT_RUN

// A tensor of a given shape and dtype with a dense last dimension.
Status CheckTensor(const char* arg, const TensorView& t, std::vector<int64_t> shape, DType dtype) {
  if (t.dtype != dtype) {
    return Status::TypeError(Argument(kOp, arg) + "must have dtype " + Name(dtype) + ", got " +
                             Name(t.dtype));
  }
  TensorView like = t;
  like.rank = static_cast<int>(shape.size());
  bool same = t.rank == like.rank;
  for (int d = 0; d < like.rank; ++d) {
    like.shape[d] = shape[d];
    same = same && t.shape[d] == shape[d];
  }
  if (!same) {
    return Status::InvalidArgument(Argument(kOp, arg) + "must have shape " + ShapeText(like) +
                                   ", got " + ShapeText(t));
  }
  if (t.rank > 0 && t.dim(-1) > 1 && t.stride(-1) != 1) {
    return Status::InvalidArgument(Argument(kOp, arg) + "must have a dense last dimension, got " +
                                   "stride " + std::to_string(t.stride(-1)));
  }
  return Status();
}

Status CheckScale(const char* arg, const TensorView& scale, const TensorView& weight,
                  const char* weight_arg) {
  if (!IsByte(weight.dtype)) {
    if (!scale.present()) return Status();
    return Status::InvalidArgument(Argument(kOp, arg) + "must be None for '" + weight_arg +
                                   "' in " + Name(weight.dtype));
  }
  if (!scale.present()) {
    return Status::InvalidArgument(Argument(kOp, arg) + "must be given for '" + weight_arg +
                                   "' in " + Name(weight.dtype));
  }
  if (scale.rank == 2) {
    return CheckTensor(arg, scale, {weight.dim(0), weight.dim(1)}, DType::kFloat32);
  }
  return CheckTensor(arg, scale, {weight.dim(0)}, DType::kFloat32);
}

Status Check(const MoeFfnArgs& a) {
  KPT_RETURN_IF_ERROR(CheckRows(kOp, "x", a.x, 2));
  if (a.x.rank != 2) {
    return Status::InvalidArgument(Argument(kOp, "x") + "must have 2 dimensions [T, D], got " +
                                   ShapeText(a.x));
  }
  const DType stored = a.w_in.dtype;
  if (stored != a.x.dtype && stored != DType::kInt8 && stored != DType::kFloat8E4M3FN &&
      stored != DType::kFloat8E5M2) {
    return Status::TypeError(Argument(kOp, "w_in") + "must have dtype " + Name(a.x.dtype) +
                             " or int8 or float8_e4m3fn or float8_e5m2, got " + Name(stored));
  }
  if (a.w_out.rank != 3 || a.w_in.rank != 3) {
    return Status::InvalidArgument(Argument(kOp, a.w_in.rank != 3 ? "w_in" : "w_out") +
                                   "must have 3 dimensions");
  }
  const int64_t experts = a.w_in.dim(0);
  const int64_t hidden = a.w_out.dim(2);
  const int64_t columns = IsGated(a.activation) ? 2 * hidden : hidden;
  const int64_t width = a.x.dim(1);
  KPT_RETURN_IF_ERROR(CheckTensor("w_in", a.w_in, {experts, columns, width}, stored));
  KPT_RETURN_IF_ERROR(CheckTensor("w_out", a.w_out, {experts, width, hidden}, stored));
  const int64_t tokens = a.x.dim(0);
  const int64_t top_k = a.indices.dim(1);
  KPT_RETURN_IF_ERROR(CheckTensor("indices", a.indices, {tokens, top_k}, DType::kInt64));
  const DType of_weights = a.weights.dtype == DType::kFloat32 ? DType::kFloat32 : a.x.dtype;
  KPT_RETURN_IF_ERROR(CheckTensor("weights", a.weights, {tokens, top_k}, of_weights));
  if (a.b_in.present()) {
    KPT_RETURN_IF_ERROR(CheckTensor("b_in", a.b_in, {experts, columns}, a.x.dtype));
  }
  if (a.b_out.present()) {
    KPT_RETURN_IF_ERROR(CheckTensor("b_out", a.b_out, {experts, width}, a.x.dtype));
  }
  KPT_RETURN_IF_ERROR(CheckScale("s_in", a.s_in, a.w_in, "w_in"));
  KPT_RETURN_IF_ERROR(CheckScale("s_out", a.s_out, a.w_out, "w_out"));
  KPT_RETURN_IF_ERROR(CheckLike(kOp, "out", a.out, "x", a.x));
  KPT_RETURN_IF_ERROR(CheckWritesOnce(kOp, "out", a.out));
  for (const TensorView* input :
       {&a.x, &a.w_in, &a.w_out, &a.weights, &a.indices, &a.b_in, &a.b_out, &a.s_in, &a.s_out}) {
    if (a.out.size() == 0 || !input->present() || input->size() == 0) continue;
    KPT_RETURN_IF_ERROR(CheckOverlap(kOp, "out", a.out, "an input", *input, false));
  }
  return Status();
}

}  // namespace

Status MoeFfn(const LaunchContext& ctx, const MoeFfnArgs& a) {
  if (a.indices.rank != 2) {
    return Status::InvalidArgument(Argument(kOp, "indices") + "must have 2 dimensions, got " +
                                   ShapeText(a.indices));
  }
  KPT_RETURN_IF_ERROR(Check(a));
  Job job = {&a, {}, false};
  const int64_t experts = a.w_in.dim(0);
  KPT_RETURN_IF_ERROR(ReadKeys(kOp, "indices", a.indices, 0, experts, "experts", &job.keys));
  const int64_t tokens = a.x.dim(0);
  job.few = tokens <= kFewTokens ||
            (tokens <= kMostTokens && tokens * a.indices.dim(1) <= kFewTokens * experts);
  return RunFirst(kOp, kVariants, ctx, job);
}

std::vector<VariantInfo> MoeFfnVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cpu
