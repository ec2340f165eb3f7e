// The matrix kernels of this family, y = epilogue(x * weight^T), one set per instruction set.
//
// Every kernel computes in float (AMX and AVX512-BF16 multiply bf16 pairs and add them in float)
// and hands 16 x 16 or wider blocks of sums to EmitRows, which scales, adds the bias, applies the
// activation and stores. Weights are read as stored, or as panels (panel.h) packed beforehand.
//
// Order of summation, hence bits: a row of y depends on K and on the kernel only, never on the
// number of threads, on where the row lies in x, or on M, with one exception: FloatGemm sums up to
// three rows more exactly than many.
#ifndef KPT_KERNELS_GEMM_CPU_PANEL_GEMM_H_
#define KPT_KERNELS_GEMM_CPU_PANEL_GEMM_H_

#include <cstdint>

#include "kernels/base/activation_kind.h"
#include "kernels/base/dtype.h"
#include "kernels/gemm/cpu/panel.h"

namespace kpt::cpu {

// What happens to the sums. Column j of the product is one row of the weight; there are n of them,
// or 2 n when the activation is gated: gate rows [0, n), up rows [n, 2 n).
//   t[m, j] = sum[m, j] * scale[j] + bias[j]
//   y[m, j] = activation(t[m, j])   or   activation(t[m, j]) * t[m, n + j]
struct Epilogue {
  void* y = nullptr;
  DType y_dtype = DType::kFloat32;  // float32, float16 or bfloat16
  int64_t ldy = 0;                  // elements between rows of y
  int64_t n = 0;                    // columns of y
  int64_t up = 0;                   // gated: columns from a gate to its other factor; 0: n
  const void* bias = nullptr;       // dense, one per column of the product; may be null
  DType bias_dtype = DType::kFloat32;
  const float* scale = nullptr;  // dense, one per column of the product; may be null
  ActivationKind activation = ActivationKind::kNone;
  // Given: y is the gradient of t instead, from grad, that of the layer's output ([m, n], dtype of
  // y). There is one column of y per column of the product then.
  const void* grad = nullptr;
  int64_t ldgrad = 0;
  // t itself, rounded ([m, columns of the product], dtype of y). Given: written beside y; with grad
  // it is read instead of the sums, which EmitRows then does not look at.
  void* t = nullptr;
  int64_t ldt = 0;
  bool accumulate = false;  // add to y, which is float; without activation, bias and scale

  int64_t up_columns() const { return up != 0 ? up : n; }
};

struct PanelGemm {
  int64_t m = 0;
  int64_t k = 0;
  const void* x = nullptr;  // [m, k], dense rows
  DType x_dtype = DType::kFloat32;
  int64_t ldx = 0;  // elements between rows of x
  // The weight, as stored ([n or 2 n, k], dense rows, dtype of x or bytes) or packed; the other is
  // null.
  const void* weight = nullptr;
  int64_t ldw = 0;
  // The stored weight is of bytes, decoded exactly as they are read; a scale is the epilogue's. Not
  // in the kernels for AMX, and not transposed.
  bool bytes = false;
  DType byte_dtype = DType::kInt8;  // or float8_e4m3fn, float8_e5m2
  // The stored weight is [k, n], ldw between values of k, instead: a product with its transpose.
  // Not for gated activations, and not in the kernels for small M.
  bool weight_transposed = false;
  const uint32_t* panels = nullptr;  // float panels for FloatGemm, bf16 panels for Bf16Gemm
  Epilogue epilogue;

  bool gated() const { return IsGated(epilogue.activation); }
  int64_t weight_item() const { return bytes ? 1 : ItemSize(x_dtype); }
  // Columns of the product: rows of the weight.
  int64_t columns() const { return gated() ? 2 * epilogue.n : epilogue.n; }
};

// How many of `num_threads` are worth waking for this many products: each should have some
// microseconds of work.
inline int UsefulThreads(int num_threads, double products) {
  constexpr double kProducts = 1 << 20;
  const double most = 1 + products / kProducts;
  return most < num_threads ? static_cast<int>(most) : num_threads;
}

// The same for m k columns products, and reading the weight, which costs about as much as 8 rows
// of them.
inline int UsefulThreads(int num_threads, int64_t m, int64_t k, int64_t columns) {
  return UsefulThreads(num_threads, static_cast<double>(m + 8) * static_cast<double>(k) *
                                        static_cast<double>(columns));
}

// Every function returns false, having written nothing, when scratch memory could not be had.
// Sizes may be any, k = 0 included (the sums are then zero).

// In each of the portable namespaces:
//   EmitRows   `rows` x `cols` sums at `sums` (leading dimension ld) are rows [m0, m0 + rows) and
//              features [n0, n0 + cols) of y. Gated: `sums` holds the gate and `up` the up half.
//              Reads whole vectors: ld and the buffer must cover cols rounded up to 16.
//   FloatGemm  any M; x and weight float32, float16 or bfloat16 (converted as they are read);
//              panels are float panels.
//   FloatRows  small M, weights as stored only: dot products along K, no packing.
#define KPT_GEMM_DECLARE_PORTABLE(ns)                                                          \
  namespace ns {                                                                               \
  void EmitRows(const Epilogue& e, const float* sums, const float* up, int64_t ld, int64_t m0, \
                int64_t rows, int64_t n0, int64_t cols);                                       \
  bool FloatGemm(int num_threads, const PanelGemm& g);                                         \
  bool FloatRows(int num_threads, const PanelGemm& g);                                         \
  }
KPT_GEMM_DECLARE_PORTABLE(baseline)
KPT_GEMM_DECLARE_PORTABLE(avx2)
KPT_GEMM_DECLARE_PORTABLE(avx512)
#undef KPT_GEMM_DECLARE_PORTABLE

// bf16 x and weight (or bf16 panels).
namespace avx512_bf16 {
bool Bf16Gemm(int num_threads, const PanelGemm& g);
bool Bf16Rows(int num_threads, const PanelGemm& g);  // small M, weights as stored only
}  // namespace avx512_bf16
namespace amx {
bool Bf16Gemm(int num_threads, const PanelGemm& g);  // any M
}  // namespace amx

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_CPU_PANEL_GEMM_H_
