#include "kernels/gemm/linear_cross_entropy_backward.h"

#include <algorithm>
#include <string>

#include "kernels/base/parallel_for.h"
#include "kernels/base/row_checks.h"
#include "kernels/base/scratch.h"
#include "kernels/gemm/cpu/linear_checks.h"
#include "kernels/gemm/cpu/logit_block.h"
#include "kernels/gemm/cpu/row_groups.h"

namespace kpt::cpu {
namespace {

constexpr const char* kOp = "linear_cross_entropy_backward";

Status Check(const LinearCrossEntropyBackwardArgs& a) {
  KPT_RETURN_IF_ERROR(CheckLinearClassifier(kOp, a.hidden, a.weight, a.target, a.options));
  const int64_t rows = a.hidden.dim(0);
  KPT_RETURN_IF_ERROR(CheckRowVector(kOp, "lse", a.lse, rows));
  KPT_RETURN_IF_ERROR(CheckReduced(kOp, "grad_loss", a.grad_loss, rows, a.options.reduction));
  KPT_RETURN_IF_ERROR(CheckRowVector(kOp, "grad_lse", a.grad_lse, rows));
  if (a.grad_hidden.present()) {
    KPT_RETURN_IF_ERROR(CheckLike(kOp, "grad_hidden", a.grad_hidden, "hidden", a.hidden));
  }
  if (a.grad_weight.present()) {
    KPT_RETURN_IF_ERROR(CheckLike(kOp, "grad_weight", a.grad_weight, "weight", a.weight));
  }
  return CheckGradients(kOp, {{"grad_hidden", &a.grad_hidden}, {"grad_weight", &a.grad_weight}},
                        {{"hidden", &a.hidden},
                         {"weight", &a.weight},
                         {"target", &a.target},
                         {"lse", &a.lse},
                         {"grad_loss", &a.grad_loss},
                         {"grad_lse", &a.grad_lse}});
}

// Memory for a matrix with dense rows; of no rows where it is not needed.
class TemporaryMatrix {
 public:
  TemporaryMatrix(DType dtype, int64_t rows, int64_t cols, int64_t ld)
      : memory_(static_cast<size_t>(rows * ld * ItemSize(dtype))) {
    matrix_ = {memory_.data(), dtype, ld, rows, cols};
  }

  bool ok() const { return memory_.data() != nullptr; }
  const RowMatrix& matrix() const { return matrix_; }
  float* floats() const { return static_cast<float*>(memory_.data()); }

 private:
  Temporary memory_;
  RowMatrix matrix_;
};

class Backward {
 public:
  Backward(const LaunchContext& ctx, const LogitKernels& kernels,
           const LinearCrossEntropyBackwardArgs& args)
      : threads_(ctx.num_threads),
        kernels_(kernels),
        options_(args.options),
        hidden_(AsRowMatrix(args.hidden)),
        weight_(AsRowMatrix(args.weight)),
        grad_hidden_(Wanted(args.grad_hidden)),
        grad_weight_(Wanted(args.grad_weight)),
        rows_(hidden_.rows),
        classes_(weight_.rows),
        block_rows_(std::min(rows_, kBlockRows)),
        block_classes_(std::min(classes_, kBlockClasses)),
        compute_(kernels.bf16 ? DType::kBFloat16 : DType::kFloat32),
        converts_(hidden_.dtype != compute_),
        narrow_(hidden_.dtype != DType::kFloat32),
        plans_(static_cast<size_t>(rows_) * sizeof(CrossEntropyGradient)),
        logits_(DType::kFloat32, block_rows_, block_classes_, OddLines(block_classes_, 4)),
        transposed_(compute_, wants_weight() ? block_classes_ : 0, block_rows_,
                    OddLines(block_rows_, ItemSize(compute_))),
        hidden_sums_(DType::kFloat32, wants_hidden() && narrow_ ? rows_ : 0, hidden_.cols,
                     hidden_.cols),
        weight_sums_(DType::kFloat32,
                     wants_weight() && narrow_ && rows_ > kBlockRows ? block_classes_ : 0,
                     hidden_.cols, hidden_.cols),
        hidden_copy_(DType::kFloat32, converts_ ? block_rows_ : 0, hidden_.cols, hidden_.cols),
        weight_copy_(DType::kFloat32, converts_ ? block_classes_ : 0, hidden_.cols, hidden_.cols) {
    // Rows of a class are summed block by block, so the classes are the outer loop; the sums of a
    // row's gradient stay until the end.
    block_.logits = logits_.floats();
    block_.ld = logits_.matrix().ld;
  }

  Status Run(const LinearCrossEntropyBackwardArgs& args) {
    const Status no_memory =
        Status::ResourceExhausted(std::string(kOp) + ": no memory for scratch buffers");
    if (plans_.data() == nullptr || !logits_.ok() || !transposed_.ok() || !hidden_sums_.ok() ||
        !weight_sums_.ok() || !hidden_copy_.ok() || !weight_copy_.ok()) {
      return no_memory;
    }
    if (rows_ == 0 || classes_ == 0) {
      ClearOthers(threads_, grad_hidden_, {});
      ClearOthers(threads_, grad_weight_, {});
      return Status();
    }
    CrossEntropyGradient* plans = static_cast<CrossEntropyGradient*>(plans_.data());
    PlanGradients(options_, TargetsOf(args.target), rows_, classes_, args.lse, args.grad_loss,
                  args.grad_lse, plans);
    for (block_.first = 0; block_.first < classes_; block_.first += block_.classes) {
      block_.classes = std::min(kBlockClasses, classes_ - block_.first);
      const RowMatrix weight =
          Converted(weight_.Rows(block_.first, block_.first + block_.classes), weight_copy_);
      for (int64_t r = 0; r < rows_; r += block_.rows) {
        block_.rows = RowsOfBlock(rows_, r);
        block_.gradients = plans + r;
        if (!RunBlock(weight, r)) return no_memory;
      }
    }
    if (wants_hidden() && narrow_) Round(hidden_sums_, grad_hidden_);
    return Status();
  }

 private:
  static RowMatrix Wanted(const TensorView& grad) {
    return grad.present() ? AsRowMatrix(grad) : RowMatrix();
  }
  bool wants_hidden() const { return grad_hidden_.rows > 0; }
  bool wants_weight() const { return grad_weight_.rows > 0; }

  // `m` as the products read it.
  RowMatrix Converted(const RowMatrix& m, const TemporaryMatrix& copy) const {
    if (!converts_) return m;
    ParallelFor(threads_, m.rows, 8192 / (m.cols + 1) + 1, [&](int64_t begin, int64_t end) {
      kernels_.convert(m, begin, end, copy.floats(), copy.matrix().ld);
    });
    return copy.matrix().Rows(0, m.rows);
  }

  void Round(const TemporaryMatrix& sums, const RowMatrix& to) const {
    ParallelFor(threads_, to.rows, 8192 / (to.cols + 1) + 1, [&](int64_t begin, int64_t end) {
      kernels_.round(sums.floats(), sums.matrix().ld, begin, end, to);
    });
  }

  bool RunBlock(const RowMatrix& weight, int64_t r) {
    const int64_t end_row = r + block_.rows;
    // One block of rows, as is usual, is converted once.
    if (converted_ != r) hidden_block_ = Converted(hidden_.Rows(r, end_row), hidden_copy_);
    converted_ = r;
    if (!MultiplyLogits(threads_, kernels_.gemm, hidden_block_, weight, block_)) return false;
    ParallelFor(threads_, block_.rows, 4096 / block_.classes + 1,
                [&](int64_t begin, int64_t end) { kernels_.gradient(block_, begin, end); });
    const int64_t ld = block_.ld * 4 / ItemSize(compute_);
    const RowMatrix grad = {block_.logits, compute_, ld, block_.rows, block_.classes};
    if (wants_hidden()) {
      const RowMatrix& sums = narrow_ ? hidden_sums_.matrix() : grad_hidden_;
      if (!MultiplyTransposed(threads_, kernels_.gemm, grad, weight, sums.Rows(r, end_row),
                              block_.first > 0)) {
        return false;
      }
    }
    return !wants_weight() || AddToWeight(grad, r);
  }

  bool AddToWeight(const RowMatrix& grad, int64_t r) {
    RowMatrix transposed = transposed_.matrix();
    transposed.rows = block_.classes;
    transposed.cols = block_.rows;
    ParallelFor(threads_, grad.rows, 8192 / grad.cols + 1, [&](int64_t begin, int64_t end) {
      kernels_.transpose(grad, begin, end, const_cast<void*>(transposed.data), transposed.ld);
    });
    const RowMatrix out = grad_weight_.Rows(block_.first, block_.first + block_.classes);
    const bool apart = narrow_ && rows_ > kBlockRows;
    const RowMatrix sums = apart ? weight_sums_.matrix().Rows(0, block_.classes) : out;
    if (!MultiplyTransposed(threads_, kernels_.gemm, transposed, hidden_block_, sums, r > 0)) {
      return false;
    }
    if (apart && r + block_.rows == rows_) Round(weight_sums_, out);
    return true;
  }

  const int threads_;
  const LogitKernels& kernels_;
  const CrossEntropyOptions& options_;
  const RowMatrix hidden_, weight_;
  const RowMatrix grad_hidden_, grad_weight_;  // of no rows where not asked for
  const int64_t rows_, classes_;
  const int64_t block_rows_, block_classes_;
  const DType compute_;  // of the products
  const bool converts_;  // inputs are converted to it
  const bool narrow_;    // outputs are not float
  const Temporary plans_;
  const TemporaryMatrix logits_, transposed_, hidden_sums_, weight_sums_, hidden_copy_,
      weight_copy_;
  LogitBlock block_;
  RowMatrix hidden_block_;
  int64_t converted_ = -1;  // the first row of hidden_block_
};

}  // namespace

Status LinearCrossEntropyBackward(const LaunchContext& ctx,
                                  const LinearCrossEntropyBackwardArgs& args) {
  KPT_RETURN_IF_ERROR(Check(args));
  LogitKernels kernels;
  KPT_RETURN_IF_ERROR(ChooseLogitKernels(kOp, ctx, args.hidden.dtype, &kernels));
  return Backward(ctx, kernels, args).Run(args);
}

std::vector<VariantInfo> LinearCrossEntropyBackwardVariants() { return LogitVariants(); }

}  // namespace kpt::cpu
