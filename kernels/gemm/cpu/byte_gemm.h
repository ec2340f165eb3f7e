// The kernels behind fp8_gemm and int8_gemm: both factors are bytes, read as stored and converted
// inside the cache blocks.
//
//   Fp8Tiles   y = epilogue(sum over slices of K of the slice's a b^T, times its two scales)
//   Int8Tiles  y = epilogue(a_scale * b_scale * (a b^T - zero_point * sum_k b))
//   Fp8Rows, Int8Rows   the same for few rows of a: dot products along the rows of b
//
// One set per instruction set. A row of y depends neither on the other rows nor on the number of
// threads.
#ifndef KPT_KERNELS_GEMM_CPU_BYTE_GEMM_H_
#define KPT_KERNELS_GEMM_CPU_BYTE_GEMM_H_

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/gemm/cpu/panel_gemm.h"
#include "kernels/gemm/fp8_gemm.h"

namespace kpt::cpu {

// One factor's scales: of the whole tensor (both steps 0), of its rows, or of blocks.
struct ByteScale {
  const float* data = nullptr;
  int64_t rows_per_scale = 1;
  int64_t step = 0;        // elements from one scale to that of the next rows
  int64_t block_step = 0;  // and to that of the next kFp8Block of K

  float At(int64_t row, int64_t block) const {
    return data[row / rows_per_scale * step + block * block_step];
  }
};

struct ByteGemm {
  int64_t m = 0;
  int64_t k = 0;
  const uint8_t* a = nullptr;  // [m, k]
  int64_t lda = 0;             // bytes between rows
  DType a_dtype = DType::kInt8;
  const uint8_t* b = nullptr;  // [columns, k]
  int64_t ldb = 0;
  DType b_dtype = DType::kInt8;
  ByteScale a_scale;
  ByteScale b_scale;
  const int32_t* zero_point = nullptr;  // int8: of each row of a; may be null
  int64_t zero_point_step = 0;
  Epilogue epilogue;  // its scale is null: see b_scale

  bool gated() const { return IsGated(epilogue.activation); }
  int64_t columns() const { return gated() ? 2 * epilogue.n : epilogue.n; }  // rows of b
  bool block_scales() const { return a_scale.block_step != 0 || b_scale.block_step != 0; }
  int32_t ZeroPoint(int64_t row) const {
    return zero_point == nullptr ? 0 : zero_point[row * zero_point_step];
  }
};

// Up to sixteen columns of the product: where they lie in b, and how many there are.
struct ByteGroup {
  int64_t column;
  int64_t valid;
};

// Rows of a that the "rows" kernels have room for.
inline constexpr int64_t kMostByteRows = 16;

// All return false, having written nothing, when scratch memory could not be had.
#define KPT_GEMM_DECLARE_BYTES(ns)                    \
  namespace ns {                                      \
  bool Fp8Tiles(int num_threads, const ByteGemm& g);  \
  bool Int8Tiles(int num_threads, const ByteGemm& g); \
  }
KPT_GEMM_DECLARE_BYTES(baseline)
KPT_GEMM_DECLARE_BYTES(avx2)
KPT_GEMM_DECLARE_BYTES(avx512)
KPT_GEMM_DECLARE_BYTES(avx512_bf16)
KPT_GEMM_DECLARE_BYTES(amx)
#undef KPT_GEMM_DECLARE_BYTES

namespace avx512_bf16 {
bool Fp8Rows(int num_threads, const ByteGemm& g);
bool Int8Rows(int num_threads, const ByteGemm& g);
}  // namespace avx512_bf16

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_CPU_BYTE_GEMM_H_
