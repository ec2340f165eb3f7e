// Products of bytes with vdpbf16ps (fp8, decoded to bf16) and vpdpbusd (int8).
//
// The register tile is 6 rows x 64 columns, as in panel_gemm_avx512_bf16.cc.
#include <immintrin.h>

#include <cstdint>

#define KPT_SIMD_NS avx512_bf16
#define KPT_NEST_EMIT avx512::EmitRows

#include "kernels/gemm/cpu/byte_nest.h"
#include "kernels/gemm/cpu/bytes_avx512_bf16.h"

namespace kpt::cpu::avx512_bf16 {
namespace {

constexpr int kVecs = 4;

struct FloatSum {
  using Vec = __m512;
  static Vec Zero() { return _mm512_setzero_ps(); }
  static Vec Dot(Vec sum, __m512i a, __m512i b) { return DotBf16(sum, a, b); }
};
struct IntSum {
  // The type the instruction's builtin has: GCC 12 stores accumulators of type __m512i to the stack
  // after every dot.
  using Vec = __v16si;
  static Vec Zero() { return reinterpret_cast<Vec>(_mm512_setzero_si512()); }
  static Vec Dot(Vec sum, __m512i a, __m512i b) {
    return reinterpret_cast<Vec>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), a, b));
  }
};

// acc[kRows][64 columns] = a[kRows][depth] * b[depth][64].
template <class Sum, int kRows>
[[gnu::always_inline]] inline void DotTile(int64_t depth, const uint32_t* a, int64_t lda,
                                           const uint32_t* b,
                                           typename Sum::Vec (&acc)[kRows][kVecs],
                                           PiecePrefetch* ahead) {
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) acc[i][j] = Sum::Zero();
  }
  const auto step = [&](int64_t k) __attribute__((always_inline)) {
    __m512i v[kVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) v[j] = _mm512_load_si512(b + k * kPanelCols + j * 16);
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      __m512i x = _mm512_set1_epi32(static_cast<int32_t>(a[i * lda + k]));
      asm("" : "+v"(x));  // one broadcast, not one folded into each product
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) acc[i][j] = Sum::Dot(acc[i][j], x, v[j]);
    }
  };
  for (int64_t k = 0; k < depth; k += kPrefetchDepth) {
    ahead->Tick();
    for (int64_t d = k; d < k + kPrefetchDepth; d += 4) {
      step(d);
      step(d + 1);
      step(d + 2);
      step(d + 3);
    }
  }
}

template <int kRows>
[[gnu::noinline]] void Fp8Multiply(int64_t depth, const uint32_t* a, int64_t lda, const uint32_t* b,
                                   const float* row, const float* column, bool accumulate,
                                   float* sums, PiecePrefetch* ahead) {
  __m512 acc[kRows][kVecs];
  DotTile<FloatSum, kRows>(depth, a, lda, b, acc, ahead);
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; ++j) {
    const __m512 scale = _mm512_load_ps(column + j * 16);
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      float* at = sums + i * kPanelCols + j * 16;
      const __m512 v = _mm512_mul_ps(acc[i][j], scale);
      const __m512 r = _mm512_set1_ps(row[i]);
      _mm512_store_ps(at,
                      accumulate ? _mm512_fmadd_ps(v, r, _mm512_load_ps(at)) : _mm512_mul_ps(v, r));
    }
  }
}

template <int kRows>
[[gnu::noinline]] void Int8Multiply(int64_t depth, const uint32_t* a, int64_t lda,
                                    const uint32_t* b, bool accumulate, float* sums,
                                    PiecePrefetch* ahead) {
  __v16si acc[kRows][kVecs];
  DotTile<IntSum, kRows>(depth, a, lda, b, acc, ahead);
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) {
      float* at = sums + i * kPanelCols + j * 16;
      __m512i v = reinterpret_cast<__m512i>(acc[i][j]);
      if (accumulate) v = _mm512_add_epi32(v, _mm512_load_si512(at));
      _mm512_store_si512(at, v);
    }
  }
}

struct Fp8Tile : Fp8Bytes {
  static constexpr int64_t kPerDword = 2;
  static constexpr int kTileRows = 6;
  static constexpr bool kExact = false;
  using Fp8Bytes::Fp8Bytes;

  void Multiply(int rows, int64_t depth, const uint32_t* a, int64_t lda, const uint32_t* b,
                const float* row, const float* column, bool accumulate, float* sums,
                PiecePrefetch* ahead) const {
    switch (rows) {
      case 1:
        return Fp8Multiply<1>(depth, a, lda, b, row, column, accumulate, sums, ahead);
      case 2:
        return Fp8Multiply<2>(depth, a, lda, b, row, column, accumulate, sums, ahead);
      case 3:
        return Fp8Multiply<3>(depth, a, lda, b, row, column, accumulate, sums, ahead);
      case 4:
        return Fp8Multiply<4>(depth, a, lda, b, row, column, accumulate, sums, ahead);
      case 5:
        return Fp8Multiply<5>(depth, a, lda, b, row, column, accumulate, sums, ahead);
      default:
        return Fp8Multiply<6>(depth, a, lda, b, row, column, accumulate, sums, ahead);
    }
  }
};

struct Int8Tile : Int8Bytes {
  static constexpr int64_t kPerDword = 4;
  static constexpr int kTileRows = 6;
  static constexpr bool kExact = true;
  using Int8Bytes::Int8Bytes;

  void Multiply(int rows, int64_t depth, const uint32_t* a, int64_t lda, const uint32_t* b,
                const float*, const float*, bool accumulate, float* sums,
                PiecePrefetch* ahead) const {
    switch (rows) {
      case 1:
        return Int8Multiply<1>(depth, a, lda, b, accumulate, sums, ahead);
      case 2:
        return Int8Multiply<2>(depth, a, lda, b, accumulate, sums, ahead);
      case 3:
        return Int8Multiply<3>(depth, a, lda, b, accumulate, sums, ahead);
      case 4:
        return Int8Multiply<4>(depth, a, lda, b, accumulate, sums, ahead);
      case 5:
        return Int8Multiply<5>(depth, a, lda, b, accumulate, sums, ahead);
      default:
        return Int8Multiply<6>(depth, a, lda, b, accumulate, sums, ahead);
    }
  }
};

}  // namespace

bool Fp8Tiles(int num_threads, const ByteGemm& g) { return RunByteNest<Fp8Tile>(num_threads, g); }
bool Int8Tiles(int num_threads, const ByteGemm& g) { return RunByteNest<Int8Tile>(num_threads, g); }

}  // namespace kpt::cpu::avx512_bf16
