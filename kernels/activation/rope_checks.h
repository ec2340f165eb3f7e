// What rope checks, on any backend.
#ifndef KPT_KERNELS_ACTIVATION_ROPE_CHECKS_H_
#define KPT_KERNELS_ACTIVATION_ROPE_CHECKS_H_

#include <string>

#include "kernels/activation/rope.h"
#include "kernels/activation/rope_job.h"
#include "kernels/base/rotation_checks.h"
#include "kernels/base/row_checks.h"
#include "kernels/base/rows.h"

namespace kpt {

inline constexpr const char* kRopeOp = "rope";

inline Status CheckHeads(const char* arg, const TensorView& view, const TensorView& q) {
  KPT_RETURN_IF_ERROR(CheckRows(kRopeOp, arg, view, 4));
  if (view.rank != 4) {
    return Status::InvalidArgument(Argument(kRopeOp, arg) +
                                   "must have 4 dimensions [batch, heads, seqlen, head_dim], got " +
                                   ShapeText(view));
  }
  if (view.dtype != q.dtype) {
    return Status::TypeError(Argument(kRopeOp, arg) + "must have dtype " + Name(q.dtype) +
                             " like 'q', got " + Name(view.dtype));
  }
  for (int d : {0, 2, 3}) {
    if (view.shape[d] != q.shape[d]) {
      return Status::InvalidArgument(Argument(kRopeOp, arg) +
                                     "must have q's batch, seqlen and head_dim " + ShapeText(q) +
                                     ", got " + ShapeText(view));
    }
  }
  return Status();
}

inline Status CheckOutput(const char* arg, const TensorView& out, const char* own_arg,
                          const TensorView& own, const char* other_arg, const TensorView& other,
                          const backend::RopeArgs& args) {
  KPT_RETURN_IF_ERROR(CheckLike(kRopeOp, arg, out, own_arg, own));
  if (out.size() == 0) return Status();
  KPT_RETURN_IF_ERROR(CheckWritesOnce(kRopeOp, arg, out));
  KPT_RETURN_IF_ERROR(CheckOverlap(kRopeOp, arg, out, own_arg, own, true));
  KPT_RETURN_IF_ERROR(CheckOverlap(kRopeOp, arg, out, "cos", args.cos, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(kRopeOp, arg, out, "sin", args.sin, false));
  if (AreApart(out, other)) return Status();
  return Status::InvalidArgument(Argument(kRopeOp, arg) + "overlaps '" + other_arg + "' in memory");
}

inline RopeJob::Side SideOf(const TensorView& in, const MutableTensorView& out) {
  RopeJob::Side side{in.data, out.mutable_data(), in.shape[1], {}, {}};
  for (int d = 0; d < 3; ++d) {
    side.in_strides[d] = in.strides[d];
    side.out_strides[d] = out.strides[d];
  }
  return side;
}

inline RopeJob::Table TableOf(const TensorView& table) {
  const bool batched = table.rank == 3 && table.shape[0] > 1;
  return {table.data, batched ? table.strides[0] : 0, table.stride(-2)};
}

// Whether all rows of `out`, and the second halves of what is rotated, start where streaming stores
// may.
inline bool RowsAreAligned(const TensorView& out, int64_t half) {
  constexpr int64_t kAlign = 64;
  const int64_t size = ItemSize(out.dtype);
  bool aligned = reinterpret_cast<uintptr_t>(out.data) % kAlign == 0 && half * size % kAlign == 0;
  for (int d = 0; d < 3; ++d) {
    aligned = aligned && (out.shape[d] == 1 || out.strides[d] * size % kAlign == 0);
  }
  return aligned;
}

// An empty problem leaves the job as it was, without positions.
inline Status MakeRopeJob(const backend::RopeArgs& args, RopeJob* job) {
  KPT_RETURN_IF_ERROR(CheckHeads("q", args.q, args.q));
  KPT_RETURN_IF_ERROR(CheckHeads("k", args.k, args.q));
  const auto check_table = [&](const char* arg, const TensorView& table) {
    return CheckRotation(kRopeOp, arg, table, "q", args.q, args.interleaved, &job->pairs);
  };
  KPT_RETURN_IF_ERROR(check_table("cos", args.cos));
  KPT_RETURN_IF_ERROR(check_table("sin", args.sin));
  KPT_RETURN_IF_ERROR(CheckLike(kRopeOp, "sin", args.sin, "cos", args.cos));
  KPT_RETURN_IF_ERROR(CheckOutput("out_q", args.out_q, "q", args.q, "k", args.k, args));
  KPT_RETURN_IF_ERROR(CheckOutput("out_k", args.out_k, "k", args.k, "q", args.q, args));
  if (!AreApart(args.out_q, args.out_k)) {
    return Status::InvalidArgument(Argument(kRopeOp, "out_k") + "overlaps 'out_q' in memory");
  }
  if (args.q.size() == 0 && args.k.size() == 0) return Status();
  job->batch = args.q.shape[0];
  job->seqlen = args.q.shape[2];
  job->head_dim = args.q.shape[3];
  job->dtype = args.q.dtype;
  job->table_dtype = args.cos.dtype;
  job->interleaved = args.interleaved;
  job->inverse = args.inverse;
  job->sides[0] = SideOf(args.q, args.out_q);
  job->sides[1] = SideOf(args.k, args.out_k);
  job->cos = TableOf(args.cos);
  job->sin = TableOf(args.sin);
  const int64_t half = args.interleaved ? 0 : job->pairs;
  job->stream = args.out_q.data != args.q.data && args.out_k.data != args.k.data &&
                (args.q.size() + args.k.size()) * ItemSize(job->dtype) >= kStreamBytes &&
                RowsAreAligned(args.out_q, half) && RowsAreAligned(args.out_k, half);
  return Status();
}

}  // namespace kpt

#endif  // KPT_KERNELS_ACTIVATION_ROPE_CHECKS_H_
