// The kernels behind packed_linear for formats that are decoded as they are read.
//
//   WeightOnlyGemm  y = epilogue(x * decode(panels)^T)
//   Int8Gemm        y = epilogue(s * (u * q^T - z * sum q)), x quantized row by row to u, s, z
//
// One set per instruction set. Layout of the panels: kernels/gemm/pack_weight.h; formula of the
// quantization: kernels/gemm/packed_linear.h. The epilogue is never gated here (the caller splits
// such calls in two phases). A row of y does not depend on the other rows, on where it lies, or on
// the number of threads.
#ifndef KPT_KERNELS_GEMM_CPU_QUANT_GEMM_H_
#define KPT_KERNELS_GEMM_CPU_QUANT_GEMM_H_

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/gemm/cpu/panel.h"
#include "kernels/gemm/cpu/panel_gemm.h"
#include "kernels/gemm/pack_weight.h"

namespace kpt::cpu {

struct QuantGemm {
  int64_t m = 0;
  int64_t k = 0;
  const void* x = nullptr;  // [m, k], dense rows
  DType x_dtype = DType::kFloat32;
  int64_t ldx = 0;  // elements between rows of x
  PackFormat format = PackFormat::kInt8;
  const char* panels = nullptr;
  Epilogue epilogue;  // int4: without a scale
  // int4 only
  int64_t group_size = -1;
  bool zero_points = false;      // of each group, behind the panel's table
  const float* scale = nullptr;  // [groups][lds]
  int64_t lds = 0;

  // Inputs in a dword.
  int64_t per_dword() const {
    return format == PackFormat::kBf16 ? 2 : format == PackFormat::kInt4 ? 8 : 4;
  }
  int64_t depth() const { return PanelDepth(k, per_dword()); }
  int64_t panel_count() const { return PanelCount(epilogue.n); }
  int64_t panel_bytes() const {
    return (depth() + (format == PackFormat::kInt8 ? 1 : 0)) * kPanelRowBytes +
           (zero_points ? groups() * kPanelCols : 0);
  }
  int64_t groups() const { return PackedGroups(k, group_size); }
  int64_t group_of(int64_t input) const { return group_size < 0 ? 0 : input / group_size; }
  // 64 zero points of a group.
  const uint8_t* zeros(int64_t p, int64_t group) const {
    return reinterpret_cast<const uint8_t*>(panel(p) + depth() * kPanelRowBytes) +
           group * kPanelCols;
  }
  const char* panel(int64_t p) const { return panels + p * panel_bytes(); }
  const int32_t* column_sums(int64_t p) const {  // int8 only
    return reinterpret_cast<const int32_t*>(panel(p) + depth() * kPanelRowBytes);
  }
  // Outputs of panel p.
  int64_t panel_cols(int64_t p) const {
    const int64_t left = epilogue.n - p * kPanelCols;
    return left < kPanelCols ? left : kPanelCols;
  }
};

// All return false, having written nothing, when scratch memory could not be had.

// Portable: any format but fp32, any dtype of x, computed in fp32 (int16 pairs for Int8Gemm).
#define KPT_GEMM_DECLARE_QUANT(ns)                                                               \
  namespace ns {                                                                                 \
  bool WeightOnlyGemm(int num_threads, const QuantGemm& g);                                      \
  bool Int8Gemm(int num_threads, const QuantGemm& g);                                            \
  /* Rows [m0, m0 + rows) of x to u [rows][ld], bytes in the order of the panels' dwords, padded \
     to depth() dwords, and the scale and zero point of each row. ld >= 4 * depth(). */          \
  void QuantizeRows(const QuantGemm& g, int64_t m0, int64_t rows, uint8_t* u, int64_t ld,        \
                    float* s, int32_t* z);                                                       \
  /* sums[r][c] = s[r] * (dots[r][c] - z[r] * column_sums[c]), 64 columns. In place is fine. */  \
  void Dequantize(const int32_t* dots, const float* s, const int32_t* z, int64_t rows,           \
                  const int32_t* column_sums, float* sums);                                      \
  }
KPT_GEMM_DECLARE_QUANT(baseline)
KPT_GEMM_DECLARE_QUANT(avx2)
KPT_GEMM_DECLARE_QUANT(avx512)
#undef KPT_GEMM_DECLARE_QUANT

// WeightOnlyGemm: bf16 x. Int8Gemm: any dtype of x.
namespace avx512_bf16 {
bool WeightOnlyGemm(int num_threads, const QuantGemm& g);
bool Int8Gemm(int num_threads, const QuantGemm& g);
bool Int4x8Gemm(int num_threads, const QuantGemm& g);  // Int8Gemm of int4
}  // namespace avx512_bf16
namespace amx {
bool WeightOnlyGemm(int num_threads, const QuantGemm& g);  // but int4
bool Int8Gemm(int num_threads, const QuantGemm& g);        // but int4
}  // namespace amx

// A thread's share of the rows and panels.
struct QuantShare {
  int64_t row_begin, row_end, panel_begin, panel_end;
};

namespace {

// Cuts rows x panels into a grid of `threads` shares such that the largest is smallest. What one
// row costs in a panel is the unit; reading (or quantizing) a row costs about `row_cost` of it, and
// decoding a panel about as much as 32 rows.
[[maybe_unused]] inline QuantShare ShareOf(int thread, int threads, int64_t m, int64_t row_unit,
                                           int64_t panels, int64_t row_cost) {
  const int64_t units = (m + row_unit - 1) / row_unit;
  int64_t best = -1;
  int64_t best_rows = 1;
  for (int tr = 1; tr <= threads; ++tr) {
    if (threads % tr != 0) continue;
    const int64_t tp = threads / tr;
    const int64_t rows = (units + tr - 1) / tr * row_unit;
    const int64_t cols = (panels + tp - 1) / tp;
    const int64_t cost = (rows + 32) * cols + rows * row_cost;
    if (best < 0 || cost < best) {
      best = cost;
      best_rows = tr;
    }
  }
  const int64_t tr = thread % best_rows;
  const int64_t tp = thread / best_rows;
  const int64_t all_tp = threads / best_rows;
  const int64_t row_end = units * (tr + 1) / best_rows * row_unit;
  return {units * tr / best_rows * row_unit, row_end < m ? row_end : m, panels * tp / all_tp,
          panels * (tp + 1) / all_tp};
}

}  // namespace
}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_CPU_QUANT_GEMM_H_
