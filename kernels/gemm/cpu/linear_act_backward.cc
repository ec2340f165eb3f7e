#include "kernels/gemm/linear_act_backward.h"

#include <algorithm>
#include <optional>
#include <string>

#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"
#include "kernels/gemm/cpu/gradient_products.h"
#include "kernels/gemm/cpu/linear_checks.h"
#include "kernels/gemm/cpu/matrix_rows.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "linear_act_backward";

Status OutOfMemory() {
  return Status::ResourceExhausted(std::string(kOp) + ": no memory for temporary results");
}

Status Check(const LinearActBackwardArgs& a) {
  TensorView out;  // what linear_act would have given
  KPT_RETURN_IF_ERROR(CheckLinear(kOp, a.x, a.weight, a.bias, a.activation, &out));
  KPT_RETURN_IF_ERROR(CheckLike(kOp, "grad_out", a.grad_out, "linear_act's output", out));
  if (a.t.present()) {
    out.shape[out.rank - 1] = a.weight.dim(0);
    KPT_RETURN_IF_ERROR(CheckLike(kOp, "t", a.t, "x weight^T", out));
  }
  if (a.grad_x.present()) {
    KPT_RETURN_IF_ERROR(CheckLike(kOp, "grad_x", a.grad_x, "x", a.x));
  }
  if (a.grad_weight.present()) {
    KPT_RETURN_IF_ERROR(CheckLike(kOp, "grad_weight", a.grad_weight, "weight", a.weight));
  }
  if (a.grad_bias.present()) {
    TensorView bias = a.weight;
    bias.rank = 1;
    bias.strides[0] = 1;
    KPT_RETURN_IF_ERROR(CheckLike(kOp, "grad_bias", a.grad_bias, "weight[:, 0]", bias));
  }
  return CheckGradients(
      kOp, {{"grad_x", &a.grad_x}, {"grad_weight", &a.grad_weight}, {"grad_bias", &a.grad_bias}},
      {{"grad_out", &a.grad_out},
       {"x", &a.x},
       {"weight", &a.weight},
       {"bias", &a.bias},
       {"t", &a.t}});
}

// A tensor [..., cols] as rows at one stride; *copy holds them when they were not.
bool AsRows(int num_threads, const TensorView& t, RowMatrix* m, std::optional<Temporary>* copy) {
  m->data = t.data;
  m->dtype = t.dtype;
  m->cols = t.dim(-1);
  if (AsMatrix(t, &m->rows, &m->ld)) return true;
  m->ld = m->cols;
  copy->emplace(static_cast<size_t>(m->rows * m->cols * ItemSize(t.dtype)));
  if ((*copy)->data() == nullptr) return false;
  CopyRows(num_threads, t, m->rows, static_cast<char*>((*copy)->data()));
  m->data = (*copy)->data();
  return true;
}

// grad_t into `out`, from t as it was kept (if it has data), or else by the forward product again,
// its epilogue the gradient of the activation.
bool GradientOfSums(const LaunchContext& ctx, const LinearActBackwardArgs& a,
                    const GradientKernels& kernels, const RowMatrix& x, const RowMatrix& grad_out,
                    const RowMatrix& t, const RowMatrix& out) {
  PanelGemm g;
  g.m = x.rows;
  g.k = x.cols;
  g.x = x.data;
  g.x_dtype = x.dtype;
  g.ldx = x.ld;
  g.weight = a.weight.data;
  g.ldw = a.weight.stride(0);
  g.epilogue.y = const_cast<void*>(out.data);
  g.epilogue.y_dtype = out.dtype;
  g.epilogue.ldy = out.ld;
  g.epilogue.n = grad_out.cols;
  g.epilogue.bias = a.bias.present() ? a.bias.data : nullptr;
  g.epilogue.bias_dtype = x.dtype;
  g.epilogue.activation = a.activation;
  g.epilogue.grad = grad_out.data;
  g.epilogue.ldgrad = grad_out.ld;
  if (t.data != nullptr) {
    constexpr int64_t kBlock = 4;  // rows walked side by side
    g.epilogue.bias = nullptr;
    g.epilogue.t = const_cast<void*>(t.data);
    g.epilogue.ldt = t.ld;
    ParallelFor(ctx.num_threads, out.rows, 16384 / out.cols + 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r += kBlock) {
        kernels.emit(g.epilogue, nullptr, nullptr, 0, r, std::min(kBlock, end - r), 0,
                     g.epilogue.n);
      }
    });
    return true;
  }
  return kernels.gemm(UsefulThreads(ctx.num_threads, g.m, g.k, g.columns()), g);
}

}  // namespace

Status LinearActBackward(const LaunchContext& ctx, const LinearActBackwardArgs& args) {
  KPT_RETURN_IF_ERROR(Check(args));
  const bool wants_x = args.grad_x.present() && args.grad_x.size() > 0;
  const bool wants_weight = args.grad_weight.present() && args.grad_weight.size() > 0;
  const bool wants_bias = args.grad_bias.present() && args.grad_bias.size() > 0;
  if (!wants_x && !wants_weight && !wants_bias) return Status();
  RowMatrix grad_x;
  if (wants_x) {
    grad_x = {args.grad_x.data, args.x.dtype, 0, 0, args.x.dim(-1)};
    if (!AsMatrix(args.grad_x, &grad_x.rows, &grad_x.ld)) {
      return Status::InvalidArgument(Argument(kOp, "grad_x") +
                                     "must have rows that one stride walks, got " +
                                     ShapeText(args.grad_x));
    }
  }
  GradientKernels kernels;
  KPT_RETURN_IF_ERROR(ChooseGradientKernels(kOp, ctx, args.x.dtype, &kernels));
  std::optional<Temporary> x_copy, grad_copy, t_copy, sums;
  RowMatrix x, grad, t;
  if (!AsRows(ctx.num_threads, args.x, &x, &x_copy) ||
      !AsRows(ctx.num_threads, args.grad_out, &grad, &grad_copy) ||
      (args.t.present() && !AsRows(ctx.num_threads, args.t, &t, &t_copy))) {
    return OutOfMemory();
  }
  const int64_t features = args.weight.dim(0);
  if (args.activation != ActivationKind::kNone && grad.rows > 0 && grad.cols > 0) {
    RowMatrix grad_t = {nullptr, x.dtype, features, x.rows, features};
    sums.emplace(static_cast<size_t>(grad_t.rows * features * ItemSize(x.dtype)));
    grad_t.data = sums->data();
    if (grad_t.data == nullptr || !GradientOfSums(ctx, args, kernels, x, grad, t, grad_t)) {
      return OutOfMemory();
    }
    grad = grad_t;
  }
  grad.cols = features;
  const std::vector<RowGroup> all = {{0, x.rows}};
  const auto matrix = [](const TensorView& t) { return GroupMatrices{AsRowMatrix(t), 0}; };
  if (wants_x &&
      !GradientOfInput(ctx.num_threads, kernels, grad, matrix(args.weight), all, grad_x)) {
    return OutOfMemory();
  }
  if (wants_weight &&
      !GradientOfWeight(ctx.num_threads, kernels, grad, x, all, matrix(args.grad_weight))) {
    return OutOfMemory();
  }
  if (wants_bias) {
    GradientOfBias(ctx.num_threads, kernels, grad, args.grad_bias.mutable_data());
  }
  return Status();
}

std::vector<VariantInfo> LinearActBackwardVariants() { return GradientVariants(); }

}  // namespace kpt::cpu
