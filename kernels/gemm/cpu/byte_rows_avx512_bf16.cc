// Few rows of a: dot products along the rows of b, which stream through once, decoded in registers.
//
// Vectors run along K; one register sums one output, and a fixed tree of additions its lanes.
#include <immintrin.h>

#include <cstdint>

#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"
#include "kernels/gemm/cpu/byte_gemm.h"
#include "kernels/gemm/cpu/bytes_avx512_bf16.h"

namespace kpt::cpu::avx512_bf16 {
namespace {

constexpr int64_t kStep = 64;        // codes of a vector
constexpr int64_t kTileColumns = 4;  // rows of b that share the loads of a
constexpr int64_t kStrip = 16;       // columns finished at once
constexpr int64_t kSlice = 512;      // codes summed from zero where no scale changes within
constexpr int64_t kAhead = 2 * kTileColumns;  // rows of b: prefetched well before they are read

inline __m512i LoadCodes(const uint8_t* p, int64_t left) {
  return LoadBytes(reinterpret_cast<const char*>(p), left);
}

// Four rows of b, the last one repeated where there are fewer.
struct Columns {
  const uint8_t* row[kTileColumns];
  int64_t column[kTileColumns];
};

// sums[kRows][16]: four columns of them. a: converted, [steps][m][32 dwords], at the tile's rows.
template <int kRows>
void Fp8Tile(const ByteGemm& g, const Fp8Bytes& bytes, const Columns& b, const uint32_t* a,
             float* sums) {
  const int64_t slice = g.block_scales() ? kFp8Block : kSlice;
  const int64_t a_step = g.m * 32;
  __m512 total[kRows][kTileColumns];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kTileColumns; ++j) total[i][j] = _mm512_setzero_ps();
  }
  for (int64_t k0 = 0; k0 < g.k; k0 += slice) {
    __m512 acc[kRows][kTileColumns];
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kTileColumns; ++j) acc[i][j] = _mm512_setzero_ps();
    }
    const int64_t end = k0 + slice < g.k ? k0 + slice : g.k;
    for (int64_t k = k0; k < end; k += kStep, a += a_step) {
#pragma GCC unroll 4
      for (int j = 0; j < kTileColumns; ++j) {
        _mm_prefetch(b.row[j] + kAhead * g.ldb + k, _MM_HINT_T0);
        __m512i first, second;
        bytes.DecodeB(LoadCodes(b.row[j] + k, g.k - k), &first, &second);
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) {
          acc[i][j] = DotBf16(acc[i][j], _mm512_load_si512(a + i * 32), first);
          acc[i][j] = DotBf16(acc[i][j], _mm512_load_si512(a + i * 32 + 16), second);
        }
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      const float row = g.a_scale.At(i, k0 / kFp8Block);
#pragma GCC unroll 4
      for (int j = 0; j < kTileColumns; ++j) {
        const float scale = row * g.b_scale.At(b.column[j], k0 / kFp8Block);
        total[i][j] = _mm512_fmadd_ps(acc[i][j], _mm512_set1_ps(scale), total[i][j]);
      }
    }
  }
  for (int i = 0; i < kRows; ++i) SumFour(total[i], sums + i * kStrip);
}

inline void SumFour(const __m512i* a, int32_t* out) {
  const __m512i u =
      _mm512_add_epi32(_mm512_unpacklo_epi32(a[0], a[1]), _mm512_unpackhi_epi32(a[0], a[1]));
  const __m512i v =
      _mm512_add_epi32(_mm512_unpacklo_epi32(a[2], a[3]), _mm512_unpackhi_epi32(a[2], a[3]));
  const __m512i s = _mm512_add_epi32(_mm512_unpacklo_epi64(u, v), _mm512_unpackhi_epi64(u, v));
  const __m256i h = _mm256_add_epi32(_mm512_castsi512_si256(s), _mm512_extracti64x4_epi64(s, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                   _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1)));
}

// Integer sums likewise, and the sum of each column of b. a: [steps][m][16 dwords].
template <int kRows>
void Int8Tile(const ByteGemm& g, const Columns& b, const uint32_t* a, float* sums,
              int32_t* column_sums) {
  const int64_t a_step = g.m * 16;
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i acc[kRows + 1][kTileColumns];
#pragma GCC unroll 5
  for (int i = 0; i <= kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kTileColumns; ++j) acc[i][j] = _mm512_setzero_si512();
  }
  for (int64_t k = 0; k < g.k; k += kStep, a += a_step) {
#pragma GCC unroll 4
    for (int j = 0; j < kTileColumns; ++j) {
      _mm_prefetch(b.row[j] + kAhead * g.ldb + k, _MM_HINT_T0);
      const __m512i v = LoadCodes(b.row[j] + k, g.k - k);
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) {
        acc[i][j] = _mm512_dpbusd_epi32(acc[i][j], _mm512_load_si512(a + i * 16), v);
      }
      acc[kRows][j] = _mm512_dpbusd_epi32(acc[kRows][j], ones, v);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    SumFour(acc[i], reinterpret_cast<int32_t*>(sums + i * kStrip));
  }
  SumFour(acc[kRows], column_sums);
}

template <int kRows>
struct Fp8Op {
  static constexpr int64_t kDwords = 32;  // of 64 converted codes
  Fp8Bytes bytes;
  explicit Fp8Op(const ByteGemm& g) : bytes(g) {}

  void Tile(const ByteGemm& g, const Columns& b, const uint32_t* a, float* sums, int32_t*) const {
    Fp8Tile<kRows>(g, bytes, b, a, sums);
  }
  void Finish(const ByteGemm&, const ByteGroup&, const int32_t*, float*) const {}
};

template <int kRows>
struct Int8Op {
  static constexpr int64_t kDwords = 16;
  Int8Bytes bytes;
  explicit Int8Op(const ByteGemm& g) : bytes(g) {}

  void Tile(const ByteGemm& g, const Columns& b, const uint32_t* a, float* sums,
            int32_t* column_sums) const {
    Int8Tile<kRows>(g, b, a, sums, column_sums);
  }
  void Finish(const ByteGemm& g, const ByteGroup& group, const int32_t* column_sums,
              float* sums) const {
    float row[kRows];
    alignas(64) float column[kStrip] = {};
    for (int i = 0; i < kRows; ++i) row[i] = g.a_scale.At(i, 0);
    for (int64_t j = 0; j < group.valid; ++j) column[j] = g.b_scale.At(group.column + j, 0);
    bytes.Finish(g, 0, kRows, row, column, column_sums, kStrip, sums);
  }
};

// Features [n0, n1), n0 a multiple of 16.
template <class Op, int kRows>
void RunStrips(const ByteGemm& g, const Op& op, const uint32_t* a, int64_t n0, int64_t n1) {
  alignas(64) float sums[2][kRows * kStrip];
  alignas(64) int32_t column_sums[kStrip];
  for (int64_t n = n0; n < n1; n += kStrip) {
    const int64_t valid = n1 - n < kStrip ? n1 - n : kStrip;
    for (int half = 0; half < (g.gated() ? 2 : 1); ++half) {
      const ByteGroup group = {n + half * g.epilogue.n, valid};
      for (int64_t q = 0; q < valid; q += kTileColumns) {
        Columns b;
        for (int64_t j = 0; j < kTileColumns; ++j) {
          b.column[j] = group.column + (q + j < valid ? q + j : valid - 1);
          b.row[j] = g.b + b.column[j] * g.ldb;
        }
        op.Tile(g, b, a, sums[half] + q, column_sums + q);
      }
      op.Finish(g, group, column_sums, sums[half]);
    }
    avx512::EmitRows(g.epilogue, sums[0], sums[1], kStrip, 0, kRows, n, valid);
  }
}

template <template <int> class OpOf, int kRows>
bool RunRows(int num_threads, const ByteGemm& g) {
  using Op = OpOf<kRows>;
  const int64_t steps = (g.k + kStep - 1) / kStep;
  uint32_t* a = ScratchAs<uint32_t>(1, static_cast<size_t>((steps * kRows + 1) * Op::kDwords));
  if (a == nullptr) return false;
  const Op op(g);
  for (int64_t s = 0; s < steps; ++s) {
    const int64_t left = g.k - s * kStep;
    for (int i = 0; i < kRows; ++i) {
      op.bytes.ConvertA(g.a + i * g.lda + s * kStep, left < kStep ? left : kStep,
                        a + (s * kRows + i) * Op::kDwords);
    }
  }
  const int64_t strips = (g.epilogue.n + kStrip - 1) / kStrip;
  Parallel(num_threads, [&](int thread, int threads) {
    const int64_t end = strips * (thread + 1) / threads * kStrip;
    RunStrips<Op, kRows>(g, op, a, strips * thread / threads * kStrip,
                         end < g.epilogue.n ? end : g.epilogue.n);
  });
  return true;
}

template <template <int> class OpOf>
bool RunRows(int num_threads, const ByteGemm& g) {
  if (g.m == 0 || g.epilogue.n == 0) return true;
  switch (g.m) {
    case 1:
      return RunRows<OpOf, 1>(num_threads, g);
    case 2:
      return RunRows<OpOf, 2>(num_threads, g);
    case 3:
      return RunRows<OpOf, 3>(num_threads, g);
    default:
      return RunRows<OpOf, 4>(num_threads, g);
  }
}

}  // namespace

bool Fp8Rows(int num_threads, const ByteGemm& g) { return RunRows<Fp8Op>(num_threads, g); }
bool Int8Rows(int num_threads, const ByteGemm& g) { return RunRows<Int8Op>(num_threads, g); }

}  // namespace kpt::cpu::avx512_bf16
