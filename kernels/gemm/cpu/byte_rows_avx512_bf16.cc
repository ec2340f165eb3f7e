// Few rows of a: dot products along the rows of b, which stream through once.
//
// Vectors run along K; one register sums one output, and a fixed tree of additions its lanes. Four
// rows of b are taken at a time, a slice of K each: multiplied by the first rows of a they are
// decoded in registers, and what comes out waits in the first-level cache for the other rows.
#include <immintrin.h>

#include <cstdint>

#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"
#include "kernels/gemm/cpu/byte_gemm.h"
#include "kernels/gemm/cpu/bytes_avx512_bf16.h"

namespace kpt::cpu::avx512_bf16 {
namespace {

constexpr int64_t kStep = 64;                  // codes of a vector
constexpr int64_t kColumns = 4;                // rows of b that share the loads of a
constexpr int64_t kStrip = 16;                 // columns finished at once
constexpr int64_t kSlice = 2048;               // codes summed from zero, where no scale changes
constexpr int64_t kFirstRows = 4;              // rows of a beside the decoder's tables
constexpr int64_t kTileRows = 6;               // and where b is decoded already
constexpr int64_t kDecoded = kSlice / 2 + 16;  // dwords of a decoded slice; no power of two
constexpr int64_t kAhead = 2 * kColumns;       // rows of b: prefetched well before they are read

inline __m512i LoadCodes(const uint8_t* p, int64_t left) {
  return LoadBytes(reinterpret_cast<const char*>(p), left);
}

// Four rows of b, the last one repeated where there are fewer.
struct Columns {
  const uint8_t* row[kColumns];
  int64_t column[kColumns];
};

// The rows of b whose successors a block of rows of a prefetches: the blocks share them, so that
// the memory works evenly.
struct Share {
  int64_t begin;
  int64_t end;
};

// Rows of a as blocks that registers have room for: the first of up to kFirstRows, the others of
// up to `most`.
struct RowBlocks {
  RowBlocks(int64_t m, int64_t most)
      : first(m < kFirstRows ? m : kFirstRows),
        rest(m - first),
        count(1 + (rest + most - 1) / most) {}
  int64_t Begin(int64_t i) const {
    if (i == 0) return 0;
    return count == 1 ? first : first + rest * (i - 1) / (count - 1);
  }
  Share Ahead(int64_t i) const { return {kColumns * i / count, kColumns * (i + 1) / count}; }

  int64_t first, rest, count;
};

inline void Prefetch(const ByteGemm& g, const Columns& b, const Share& share, int64_t k) {
  for (int64_t j = share.begin; j < share.end; ++j) {
    __builtin_prefetch(b.row[j] + kAhead * g.ldb + k, 0, 2);
  }
}

// totals[kRows][4] += the sums of codes [k0, end), times their scales; a: [steps][kRows][32
// dwords], at k0. Decodes b, to `decoded` [4][kDecoded] if that is not null, or (kDecodes false)
// finds it there.
template <int kRows, bool kDecodes>
void Fp8Slice(const ByteGemm& g, const Fp8Bytes& bytes, const Columns& b, const Share& share,
              int64_t m0, int64_t k0, int64_t end, const uint32_t* a, uint32_t* decoded,
              __m512* totals) {
  __m512 acc[kRows][kColumns];
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) acc[i][j] = _mm512_setzero_ps();
  }
  uint32_t* at = decoded;
  for (int64_t k = k0; k < end; k += kStep, a += kRows * 32, at += 32) {
    Prefetch(g, b, share, k);
    if constexpr (kDecodes) {
#pragma GCC unroll 4
      for (int j = 0; j < kColumns; ++j) {
        __m512i first, second;
        bytes.DecodeB(LoadCodes(b.row[j] + k, g.k - k), &first, &second);
        if (decoded != nullptr) {
          _mm512_store_si512(at + j * kDecoded, first);
          _mm512_store_si512(at + j * kDecoded + 16, second);
        }
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) {
          acc[i][j] = DotBf16(acc[i][j], _mm512_load_si512(a + i * 32), first);
          acc[i][j] = DotBf16(acc[i][j], _mm512_load_si512(a + i * 32 + 16), second);
        }
      }
    } else {
#pragma GCC unroll 2
      for (int half = 0; half < 32; half += 16) {
        __m512i v[kColumns];
#pragma GCC unroll 4
        for (int j = 0; j < kColumns; ++j) v[j] = _mm512_load_si512(at + j * kDecoded + half);
#pragma GCC unroll 6
        for (int i = 0; i < kRows; ++i) {
          const __m512i x = _mm512_load_si512(a + i * 32 + half);
#pragma GCC unroll 4
          for (int j = 0; j < kColumns; ++j) acc[i][j] = DotBf16(acc[i][j], x, v[j]);
        }
      }
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
    const float row = g.a_scale.At(m0 + i, k0 / kFp8Block);
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) {
      const float scale = row * g.b_scale.At(b.column[j], k0 / kFp8Block);
      __m512* total = totals + i * kColumns + j;
      *total = _mm512_fmadd_ps(acc[i][j], _mm512_set1_ps(scale), *total);
    }
  }
}

template <bool kDecodes>
void Fp8Slice(int64_t rows, const ByteGemm& g, const Fp8Bytes& bytes, const Columns& b,
              const Share& share, int64_t m0, int64_t k0, int64_t end, const uint32_t* a,
              uint32_t* decoded, __m512* totals) {
  switch (rows) {
    case 1:
      return Fp8Slice<1, kDecodes>(g, bytes, b, share, m0, k0, end, a, decoded, totals);
    case 2:
      return Fp8Slice<2, kDecodes>(g, bytes, b, share, m0, k0, end, a, decoded, totals);
    case 3:
      return Fp8Slice<3, kDecodes>(g, bytes, b, share, m0, k0, end, a, decoded, totals);
    case 4:
      return Fp8Slice<4, kDecodes>(g, bytes, b, share, m0, k0, end, a, decoded, totals);
  }
  if constexpr (!kDecodes) {
    if (rows == 5) {
      return Fp8Slice<5, false>(g, bytes, b, share, m0, k0, end, a, decoded, totals);
    }
    Fp8Slice<6, false>(g, bytes, b, share, m0, k0, end, a, decoded, totals);
  }
}

// sums[m][16]: four columns of them. a: see RunRows.
void Fp8Columns(const ByteGemm& g, const Fp8Bytes& bytes, const Columns& b, const uint32_t* a,
                float* sums) {
  alignas(64) uint32_t decoded[kColumns * kDecoded];
  __m512 totals[kMostByteRows * kColumns];
  for (int64_t i = 0; i < g.m * kColumns; ++i) totals[i] = _mm512_setzero_ps();
  const int64_t slice = g.block_scales() ? kFp8Block : kSlice;
  const int64_t steps = (g.k + kStep - 1) / kStep;
  const RowBlocks blocks(g.m, kTileRows);
  for (int64_t k = 0; k < g.k; k += slice) {
    const int64_t end = k + slice < g.k ? k + slice : g.k;
    for (int64_t i = 0; i < blocks.count; ++i) {
      const int64_t m = blocks.Begin(i);
      const int64_t rows = blocks.Begin(i + 1) - m;
      const uint32_t* at = a + (m * steps + k / kStep * rows) * 32;
      if (i == 0) {
        Fp8Slice<true>(rows, g, bytes, b, blocks.Ahead(i), m, k, end, at,
                       blocks.count > 1 ? decoded : nullptr, totals);
      } else {
        Fp8Slice<false>(rows, g, bytes, b, blocks.Ahead(i), m, k, end, at, decoded,
                        totals + m * kColumns);
      }
    }
  }
  for (int64_t i = 0; i < g.m; ++i) SumFour(totals + i * kColumns, sums + i * kStrip);
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

// Integer sums likewise; with the sum of each column of b if kSums. a: [steps][kRows][16 dwords].
template <int kRows, bool kSums>
void Int8Tile(const ByteGemm& g, const Columns& b, const Share& share, const uint32_t* a,
              float* sums, int32_t* column_sums) {
  constexpr int kAll = kRows + (kSums ? 1 : 0);
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i acc[kAll][kColumns];
#pragma GCC unroll 7
  for (int i = 0; i < kAll; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) acc[i][j] = _mm512_setzero_si512();
  }
  for (int64_t k = 0; k < g.k; k += kStep, a += kRows * 16) {
    Prefetch(g, b, share, k);
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) {
      const __m512i v = LoadCodes(b.row[j] + k, g.k - k);
#pragma GCC unroll 6
      for (int i = 0; i < kRows; ++i) {
        acc[i][j] = _mm512_dpbusd_epi32(acc[i][j], _mm512_load_si512(a + i * 16), v);
      }
      if constexpr (kSums) acc[kRows][j] = _mm512_dpbusd_epi32(acc[kRows][j], ones, v);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    SumFour(acc[i], reinterpret_cast<int32_t*>(sums + i * kStrip));
  }
  if constexpr (kSums) SumFour(acc[kRows], column_sums);
}

template <bool kSums>
void Int8Tile(int64_t rows, const ByteGemm& g, const Columns& b, const Share& share,
              const uint32_t* a, float* sums, int32_t* column_sums) {
  switch (rows) {
    case 1:
      return Int8Tile<1, kSums>(g, b, share, a, sums, column_sums);
    case 2:
      return Int8Tile<2, kSums>(g, b, share, a, sums, column_sums);
    case 3:
      return Int8Tile<3, kSums>(g, b, share, a, sums, column_sums);
    default:
      return Int8Tile<4, kSums>(g, b, share, a, sums, column_sums);
  }
}

void Int8Columns(const ByteGemm& g, const Columns& b, const uint32_t* a, float* sums,
                 int32_t* column_sums) {
  const int64_t steps = (g.k + kStep - 1) / kStep;
  const RowBlocks blocks(g.m, kFirstRows);
  for (int64_t i = 0; i < blocks.count; ++i) {
    const int64_t m = blocks.Begin(i);
    const auto tile = i == 0 ? Int8Tile<true> : Int8Tile<false>;
    tile(blocks.Begin(i + 1) - m, g, b, blocks.Ahead(i), a + m * steps * 16, sums + m * kStrip,
         column_sums);
  }
}

struct Fp8Op {
  static constexpr int64_t kBlockRows = kTileRows;
  static constexpr int64_t kDwords = 32;  // of 64 converted codes
  Fp8Bytes bytes;
  explicit Fp8Op(const ByteGemm& g) : bytes(g) {}

  void Multiply(const ByteGemm& g, const Columns& b, const uint32_t* a, float* sums,
                int32_t*) const {
    Fp8Columns(g, bytes, b, a, sums);
  }
  void Finish(const ByteGemm&, const ByteGroup&, const int32_t*, float*) const {}
};

struct Int8Op {
  static constexpr int64_t kBlockRows = kFirstRows;
  static constexpr int64_t kDwords = 16;
  Int8Bytes bytes;
  explicit Int8Op(const ByteGemm& g) : bytes(g) {}

  void Multiply(const ByteGemm& g, const Columns& b, const uint32_t* a, float* sums,
                int32_t* column_sums) const {
    Int8Columns(g, b, a, sums, column_sums);
  }
  void Finish(const ByteGemm& g, const ByteGroup& group, const int32_t* column_sums,
              float* sums) const {
    float row[kMostByteRows];
    alignas(64) float column[kStrip] = {};
    for (int64_t i = 0; i < g.m; ++i) row[i] = g.a_scale.At(i, 0);
    for (int64_t j = 0; j < group.valid; ++j) column[j] = g.b_scale.At(group.column + j, 0);
    bytes.Finish(g, 0, g.m, row, column, column_sums, kStrip, sums);
  }
};

// Features [n0, n1), n0 a multiple of 16.
template <class Op>
void RunStrips(const ByteGemm& g, const Op& op, const uint32_t* a, int64_t n0, int64_t n1) {
  alignas(64) float sums[2][kMostByteRows * kStrip];
  alignas(64) int32_t column_sums[kStrip];
  for (int64_t n = n0; n < n1; n += kStrip) {
    const int64_t valid = n1 - n < kStrip ? n1 - n : kStrip;
    for (int half = 0; half < (g.gated() ? 2 : 1); ++half) {
      const ByteGroup group = {n + half * g.epilogue.n, valid};
      for (int64_t q = 0; q < valid; q += kColumns) {
        Columns b;
        for (int64_t j = 0; j < kColumns; ++j) {
          b.column[j] = group.column + (q + j < valid ? q + j : valid - 1);
          b.row[j] = g.b + b.column[j] * g.ldb;
        }
        op.Multiply(g, b, a, sums[half] + q, column_sums + q);
      }
      op.Finish(g, group, column_sums, sums[half]);
    }
    avx512::EmitRows(g.epilogue, sums[0], sums[1], kStrip, 0, g.m, n, valid);
  }
}

// a is converted block by block of its rows: [steps][rows of the block][dwords of a step].
template <class Op>
bool RunRows(int num_threads, const ByteGemm& g) {
  if (g.m == 0 || g.epilogue.n == 0) return true;
  const int64_t steps = (g.k + kStep - 1) / kStep;
  uint32_t* a = ScratchAs<uint32_t>(1, static_cast<size_t>((steps * g.m + 1) * Op::kDwords));
  if (a == nullptr) return false;
  const Op op(g);
  const RowBlocks blocks(g.m, Op::kBlockRows);
  uint32_t* to = a;
  for (int64_t i = 0; i < blocks.count; ++i) {
    for (int64_t k = 0; k < g.k; k += kStep) {
      for (int64_t m = blocks.Begin(i); m < blocks.Begin(i + 1); ++m, to += Op::kDwords) {
        op.bytes.ConvertA(g.a + m * g.lda + k, g.k - k < kStep ? g.k - k : kStep, to);
      }
    }
  }
  const int64_t strips = (g.epilogue.n + kStrip - 1) / kStrip;
  Parallel(num_threads, [&](int thread, int threads) {
    const int64_t end = strips * (thread + 1) / threads * kStrip;
    RunStrips(g, op, a, strips * thread / threads * kStrip,
              end < g.epilogue.n ? end : g.epilogue.n);
  });
  return true;
}

}  // namespace

bool Fp8Rows(int num_threads, const ByteGemm& g) { return RunRows<Fp8Op>(num_threads, g); }
bool Int8Rows(int num_threads, const ByteGemm& g) { return RunRows<Int8Op>(num_threads, g); }

}  // namespace kpt::cpu::avx512_bf16
