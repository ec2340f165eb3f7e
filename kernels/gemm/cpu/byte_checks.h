// What fp8_gemm and int8_gemm check and fill in alike.
#ifndef KPT_KERNELS_GEMM_CPU_BYTE_CHECKS_H_
#define KPT_KERNELS_GEMM_CPU_BYTE_CHECKS_H_

#include <string>
#include <utility>

#include "kernels/base/launch_context.h"
#include "kernels/base/row_checks.h"
#include "kernels/base/status.h"
#include "kernels/base/variant.h"
#include "kernels/gemm/cpu/byte_gemm.h"

namespace kpt::cpu {

inline Status CheckIsFloat32(const char* op, const char* arg, const TensorView& t) {
  if (t.dtype == DType::kFloat32) return Status();
  return Status::TypeError(Argument(op, arg) + "must have dtype float32, got " + Name(t.dtype));
}

// A matrix with dense rows.
inline Status CheckMatrix(const char* op, const char* arg, const TensorView& t) {
  if (t.rank == 2 && (t.dim(1) <= 1 || t.stride(1) == 1)) return Status();
  return Status::InvalidArgument(Argument(op, arg) + "must have 2 dimensions and dense rows, got " +
                                 ShapeText(t));
}

// Shapes and strides of everything but the scales; dtypes of a and b are the caller's.
inline Status CheckByteFactors(const char* op, const MutableTensorView& out, const TensorView& a,
                               const TensorView& b, const TensorView& bias, bool gated) {
  KPT_RETURN_IF_ERROR(CheckMatrix(op, "a", a));
  KPT_RETURN_IF_ERROR(CheckMatrix(op, "b", b));
  KPT_RETURN_IF_ERROR(CheckRows(op, "out", out, 2));
  KPT_RETURN_IF_ERROR(CheckMatrix(op, "out", out));
  if (b.dim(1) != a.dim(1)) {
    return Status::InvalidArgument(Argument(op, "b") + "must have shape [N, " +
                                   std::to_string(a.dim(1)) + "], got " + ShapeText(b));
  }
  if (gated && b.dim(0) % 2 != 0) {
    return Status::InvalidArgument(Argument(op, "b") +
                                   "must have an even number of rows for a gated activation, got " +
                                   ShapeText(b));
  }
  const int64_t n = gated ? b.dim(0) / 2 : b.dim(0);
  if (out.dim(0) != a.dim(0) || out.dim(1) != n) {
    return Status::InvalidArgument(Argument(op, "out") + "must have shape [" +
                                   std::to_string(a.dim(0)) + ", " + std::to_string(n) + "], got " +
                                   ShapeText(out));
  }
  if (bias.present()) {
    KPT_RETURN_IF_ERROR(CheckRows(op, "bias", bias, 1));
    if (bias.rank != 1 || bias.dim(0) != b.dim(0)) {
      return Status::InvalidArgument(Argument(op, "bias") + "must have shape [" +
                                     std::to_string(b.dim(0)) + "], got " + ShapeText(bias));
    }
  }
  KPT_RETURN_IF_ERROR(CheckWritesOnce(op, "out", out));
  KPT_RETURN_IF_ERROR(CheckOverlap(op, "out", out, "a", a, false));
  KPT_RETURN_IF_ERROR(CheckOverlap(op, "out", out, "b", b, false));
  return CheckOverlap(op, "out", out, "bias", bias, false);
}

// All but the scales, which are 1.
inline ByteGemm MakeByteGemm(const MutableTensorView& out, const TensorView& a, const TensorView& b,
                             const TensorView& bias, ActivationKind activation) {
  static constexpr float kOne = 1.0f;
  ByteGemm g;
  g.m = a.dim(0);
  g.k = a.dim(1);
  g.a = a.as<uint8_t>();
  g.lda = a.stride(0);
  g.a_dtype = a.dtype;
  g.b = b.as<uint8_t>();
  g.ldb = b.stride(0);
  g.b_dtype = b.dtype;
  g.a_scale.data = &kOne;
  g.b_scale.data = &kOne;
  g.epilogue.y = out.mutable_data();
  g.epilogue.y_dtype = out.dtype;
  g.epilogue.ldy = out.stride(0);
  g.epilogue.n = out.dim(1);
  g.epilogue.bias = bias.present() ? bias.data : nullptr;
  g.epilogue.bias_dtype = bias.dtype;
  g.epilogue.activation = activation;
  return g;
}

// Whether dot products along the rows of b beat packing it (measured): the sums of a register's
// lanes cost the same for any K, and scales that change every 128 of it more than they do in tiles.
inline bool IsFewRows(const LaunchContext&, const ByteGemm& g) {
  constexpr int64_t kFew = 4;
  return g.m <= kFew || (g.m <= kMostByteRows && g.m <= g.k / 64 && !g.block_scales());
}

inline Status RunByteKernel(const char* op, bool (*kernel)(int, const ByteGemm&),
                            const LaunchContext& ctx, const ByteGemm& g) {
  if (kernel(UsefulThreads(ctx.num_threads, g.m, g.k, g.columns()), g)) return Status();
  return Status::ResourceExhausted(std::string(op) + ": no memory for scratch buffers");
}

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_CPU_BYTE_CHECKS_H_
