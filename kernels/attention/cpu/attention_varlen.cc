// attention_varlen_forward and attention_varlen_backward: argument checks, and the problem of each
// sequence.
#include "kernels/attention/attention_varlen.h"

#include <algorithm>
#include <string>

#include "kernels/attention/attention_checks.h"
#include "kernels/attention/flash_arguments.h"
#include "kernels/attention/flash_variants.h"
#include "kernels/base/row_checks.h"

namespace kpt::cpu {
namespace {

constexpr char kForward[] = "attention_varlen_forward";
constexpr char kBackward[] = "attention_varlen_backward";

Status CheckLengths(const char* op, const char* arg, const TensorView& cu, int64_t total,
                    const char* max_arg, int64_t max_seqlen) {
  if (cu.dtype != DType::kInt32) return WrongType(op, arg, "int32", cu.dtype);
  KPT_RETURN_IF_ERROR(CheckRank(op, arg, cu, 1));
  if (cu.dim(0) < 1) return Wrong(op, arg, "have at least one element", ShapeText(cu));
  const auto at = [&cu](int64_t i) -> int64_t { return cu.as<int32_t>()[i * cu.stride(0)]; };
  if (at(0) != 0) return Wrong(op, arg, "start with 0", std::to_string(at(0)));
  for (int64_t i = 1; i < cu.dim(0); ++i) {
    const int64_t length = at(i) - at(i - 1);
    if (length < 0) {
      return Wrong(op, arg, "never fall",
                   std::to_string(at(i)) + " after " + std::to_string(at(i - 1)));
    }
    if (length > max_seqlen) {
      return Wrong(op, max_arg, "be at least the longest sequence's " + std::to_string(length),
                   std::to_string(max_seqlen));
    }
  }
  const int64_t last = at(cu.dim(0) - 1);
  return last == total ? Status()
                       : Wrong(op, arg, "end with the number of rows, " + std::to_string(total),
                               std::to_string(last));
}

Status CheckSequences(const char* op, const PackedSequences& a) {
  KPT_RETURN_IF_ERROR(CheckRank(op, "q", a.q, 3));
  KPT_RETURN_IF_ERROR(CheckRank(op, "k", a.k, 3));
  KPT_RETURN_IF_ERROR(CheckRank(op, "v", a.v, 3));
  KPT_RETURN_IF_ERROR(CheckDtypes(op, a.q, a.k, a.v));
  const int64_t k_shape[3] = {a.k.dim(0), a.k.dim(1), a.q.dim(2)};
  KPT_RETURN_IF_ERROR(CheckShape(op, "k", a.k, k_shape, 3));
  const int64_t v_shape[3] = {a.k.dim(0), a.k.dim(1), a.v.dim(2)};
  KPT_RETURN_IF_ERROR(CheckShape(op, "v", a.v, v_shape, 3));
  KPT_RETURN_IF_ERROR(CheckHeads(op, a.q.dim(1), a.k.dim(1)));
  KPT_RETURN_IF_ERROR(CheckDense(op, "q", a.q));
  KPT_RETURN_IF_ERROR(CheckDense(op, "k", a.k));
  KPT_RETURN_IF_ERROR(CheckDense(op, "v", a.v));
  KPT_RETURN_IF_ERROR(
      CheckLengths(op, "cu_seqlens_q", a.cu_seqlens_q, a.q.dim(0), "max_seqlen_q", a.max_seqlen_q));
  KPT_RETURN_IF_ERROR(
      CheckLengths(op, "cu_seqlens_k", a.cu_seqlens_k, a.k.dim(0), "max_seqlen_k", a.max_seqlen_k));
  KPT_RETURN_IF_ERROR(CheckShape(op, "cu_seqlens_k", a.cu_seqlens_k, a.cu_seqlens_q.shape, 1));
  KPT_RETURN_IF_ERROR(CheckOptions(op, a.cu_seqlens_q.dim(0) - 1, a.q.dim(1), a));
  return CheckDocuments(op, a, a.q.shape, a.k.shape, 1);
}

Status CheckWritten(const char* op, const PackedSequences& a, const char* arg,
                    const MutableTensorView& out) {
  KPT_RETURN_IF_ERROR(CheckOverlap(op, arg, out, "cu_seqlens_q", a.cu_seqlens_q, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(op, arg, out, "cu_seqlens_k", a.cu_seqlens_k, false));
  return CheckOutput(op, arg, out, a.q, a.k, a.v, a);
}

// [Tq, Hq, Dv] in the dtype of q.
Status CheckOut(const char* op, const PackedSequences& a, const char* arg, const TensorView& out) {
  if (out.dtype != a.q.dtype) return WrongType(op, arg, Name(a.q.dtype), out.dtype);
  const int64_t shape[3] = {a.q.dim(0), a.q.dim(1), a.v.dim(2)};
  KPT_RETURN_IF_ERROR(CheckShape(op, arg, out, shape, 3));
  return CheckDense(op, arg, out);
}

// [Hq, Tq] in float32.
Status CheckLse(const char* op, const PackedSequences& a, const char* arg, const TensorView& lse) {
  if (lse.dtype != DType::kFloat32) return WrongType(op, arg, "float32", lse.dtype);
  const int64_t shape[2] = {a.q.dim(1), a.q.dim(0)};
  return CheckShape(op, arg, lse, shape, 2);
}

Status CheckForward(const AttentionVarlenForwardArgs& a) {
  KPT_RETURN_IF_ERROR(CheckSequences(kForward, a));
  KPT_RETURN_IF_ERROR(CheckOut(kForward, a, "out", a.out));
  KPT_RETURN_IF_ERROR(CheckLse(kForward, a, "lse", a.lse));
  KPT_RETURN_IF_ERROR(CheckWritten(kForward, a, "out", a.out));
  KPT_RETURN_IF_ERROR(CheckWritten(kForward, a, "lse", a.lse));
  return CheckOverlap(kForward, "out", a.out, "lse", a.lse, false);
}

Status CheckGradient(const AttentionVarlenBackwardArgs& a, const char* arg,
                     const MutableTensorView& grad, const char* of_arg, const TensorView& of) {
  KPT_RETURN_IF_ERROR(CheckLike(kBackward, arg, grad, of_arg, of));
  KPT_RETURN_IF_ERROR(CheckOverlap(kBackward, arg, grad, "grad_out", a.grad_out, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(kBackward, arg, grad, "out", a.out, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(kBackward, arg, grad, "lse", a.lse, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(kBackward, arg, grad, "grad_lse", a.grad_lse, false));
  return CheckWritten(kBackward, a, arg, grad);
}

Status CheckBackward(const AttentionVarlenBackwardArgs& a) {
  KPT_RETURN_IF_ERROR(CheckSequences(kBackward, a));
  KPT_RETURN_IF_ERROR(CheckOut(kBackward, a, "grad_out", a.grad_out));
  KPT_RETURN_IF_ERROR(CheckOut(kBackward, a, "out", a.out));
  KPT_RETURN_IF_ERROR(CheckLse(kBackward, a, "lse", a.lse));
  if (a.grad_lse.present()) {
    KPT_RETURN_IF_ERROR(CheckLse(kBackward, a, "grad_lse", a.grad_lse));
  }
  KPT_RETURN_IF_ERROR(CheckGradient(a, "grad_q", a.grad_q, "q", a.q));
  KPT_RETURN_IF_ERROR(CheckGradient(a, "grad_k", a.grad_k, "k", a.k));
  KPT_RETURN_IF_ERROR(CheckGradient(a, "grad_v", a.grad_v, "v", a.v));
  KPT_RETURN_IF_ERROR(CheckOverlap(kBackward, "grad_q", a.grad_q, "grad_k", a.grad_k, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(kBackward, "grad_q", a.grad_q, "grad_v", a.grad_v, false));
  return CheckOverlap(kBackward, "grad_k", a.grad_k, "grad_v", a.grad_v, false);
}

// Some [T, H, D] rows as heads, from row `first` on.
template <class T>
void SetRows(const TensorView& t, int64_t first, T** data, HeadStrides* stride) {
  using Bytes = std::conditional_t<std::is_const_v<T>, const char, char>;
  *data = static_cast<Bytes*>(const_cast<void*>(t.data)) + first * t.stride(0) * ItemSize(t.dtype);
  *stride = {0, t.stride(1), t.stride(0)};
}
// And of [H, T].
void SetStatistics(const TensorView& t, int64_t first, const float** data, HeadStrides* stride) {
  *data = t.as<float>() + first * t.stride(1);
  *stride = {0, t.stride(0), t.stride(1)};
}

const void* Document(const TensorView& ids, int64_t first) {
  return static_cast<const char*>(ids.data) + first * ids.stride(0) * ItemSize(ids.dtype);
}

// What sequence `n` reads.
FlashProblem Sequence(const PackedSequences& a, int64_t n) {
  const auto at = [n](const TensorView& cu, int64_t i) -> int64_t {
    return cu.as<int32_t>()[(n + i) * cu.stride(0)];
  };
  const int64_t q_row = at(a.cu_seqlens_q, 0);
  const int64_t k_row = at(a.cu_seqlens_k, 0);
  FlashProblem p{};
  SetRows(a.q, q_row, &p.q, &p.q_stride);
  SetRows(a.k, k_row, &p.k, &p.k_stride);
  SetRows(a.v, k_row, &p.v, &p.v_stride);
  p.dtype = a.q.dtype;
  p.batch = 1;
  p.heads_q = a.q.dim(1);
  p.heads_kv = a.k.dim(1);
  p.seqlen_q = at(a.cu_seqlens_q, 1) - q_row;
  p.seqlen_k = at(a.cu_seqlens_k, 1) - k_row;
  p.dim_qk = a.q.dim(2);
  p.dim_v = a.v.dim(2);
  SetOptions(a, &p);
  if (p.alibi != nullptr) p.alibi += n * p.alibi_batch_stride;
  if (a.q_doc.present()) {
    p.q_doc = Document(a.q_doc, q_row);
    p.k_doc = Document(a.k_doc, k_row);
    p.doc_dtype = a.q_doc.dtype;
    p.q_doc_row = a.q_doc.stride(0);
    p.k_doc_row = a.k_doc.stride(0);
  }
  return p;
}

// The longest first, so that none of them is left for the end.
template <class Problem>
void Sort(std::vector<Problem>* problems) {
  std::stable_sort(problems->begin(), problems->end(), [](const Problem& a, const Problem& b) {
    return a.seqlen_q * a.seqlen_k > b.seqlen_q * b.seqlen_k;
  });
}

}  // namespace

Status AttentionVarlenForward(const LaunchContext& ctx, const AttentionVarlenForwardArgs& a) {
  KPT_RETURN_IF_ERROR(CheckForward(a));
  std::vector<FlashProblem> problems;
  for (int64_t n = 0; n + 1 < a.cu_seqlens_q.dim(0); ++n) {
    FlashProblem p = Sequence(a, n);
    const int64_t row = a.cu_seqlens_q.as<int32_t>()[n * a.cu_seqlens_q.stride(0)];
    SetRows(a.out, row, &p.out, &p.out_stride);
    const float* lse;
    SetStatistics(a.lse, row, &lse, &p.lse_stride);
    p.lse = const_cast<float*>(lse);
    problems.push_back(p);
  }
  if (problems.empty()) return Status();
  Sort(&problems);
  return RunForwardVariant(kForward, ctx, problems);
}

Status AttentionVarlenBackward(const LaunchContext& ctx, const AttentionVarlenBackwardArgs& a) {
  KPT_RETURN_IF_ERROR(CheckBackward(a));
  std::vector<FlashBackwardProblem> problems;
  for (int64_t n = 0; n + 1 < a.cu_seqlens_q.dim(0); ++n) {
    FlashBackwardProblem p{};
    static_cast<FlashProblem&>(p) = Sequence(a, n);
    const int64_t row = a.cu_seqlens_q.as<int32_t>()[n * a.cu_seqlens_q.stride(0)];
    const int64_t key = a.cu_seqlens_k.as<int32_t>()[n * a.cu_seqlens_k.stride(0)];
    SetRows(a.out, row, &p.out, &p.out_stride);
    const float* lse;
    SetStatistics(a.lse, row, &lse, &p.lse_stride);
    p.lse = const_cast<float*>(lse);
    SetRows(a.grad_out, row, &p.grad_out, &p.grad_out_stride);
    if (a.grad_lse.present()) {
      SetStatistics(a.grad_lse, row, &p.grad_lse, &p.grad_lse_stride);
    }
    SetRows(a.grad_q, row, &p.grad_q, &p.grad_q_stride);
    SetRows(a.grad_k, key, &p.grad_k, &p.grad_k_stride);
    SetRows(a.grad_v, key, &p.grad_v, &p.grad_v_stride);
    problems.push_back(p);
  }
  if (problems.empty()) return Status();
  Sort(&problems);
  return RunBackwardVariant(kBackward, ctx, problems);
}

std::vector<VariantInfo> AttentionVarlenForwardVariants() { return ForwardVariants(); }
std::vector<VariantInfo> AttentionVarlenBackwardVariants() { return BackwardVariants(); }

}  // namespace kpt::cpu
