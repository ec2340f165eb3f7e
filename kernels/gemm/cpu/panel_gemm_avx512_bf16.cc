// bf16 matrix products with vdpbf16ps: two products of a bf16 pair are added to a float sum.
//
// The register tile is 6 rows x 64 columns: 24 sums, 4 panel vectors and the broadcasts fill the 32
// registers. Six rows also are what fits when x has a row stride that is a multiple of 4096 bytes
// and all rows of the tile fall into one set of an 8-way L1 cache.
#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#define KPT_SIMD_NS avx512_bf16
#define KPT_NEST_EMIT avx512::EmitRows

#include "kernels/gemm/cpu/byte_weights_avx512_bf16.h"
#include "kernels/gemm/cpu/dot_rows.h"
#include "kernels/gemm/cpu/pack_avx512.h"
#include "kernels/gemm/cpu/panel_nest.h"

namespace kpt::cpu::avx512_bf16 {
namespace {

template <int kRows>
[[gnu::noinline]] void MultiplyRows(int64_t depth, const char* a, int64_t lda,
                                    const uint32_t* const* groups, float* sums, bool accumulate,
                                    PacedPrefetch* prefetch) {
  constexpr int kVecs = 4;
  __m512 acc[kRows][kVecs];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) {
      acc[i][j] = accumulate ? _mm512_load_ps(sums + i * kPanelCols + j * 16) : _mm512_setzero_ps();
    }
  }
  PacedPrefetch ahead = *prefetch;
  const uint32_t* b[kVecs] = {groups[0], groups[1], groups[2], groups[3]};
  const auto step = [&](int64_t k) __attribute__((always_inline)) {
    __m512bh v[kVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) {
      v[j] = reinterpret_cast<__m512bh>(_mm512_load_si512(b[j] + k * kPanelCols));
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      int32_t pair;
      std::memcpy(&pair, a + i * lda + k * 4, 4);
      __m512i x = _mm512_set1_epi32(pair);
      asm("" : "+v"(x));  // one broadcast, not one folded into each product
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) {
        acc[i][j] = _mm512_dpbf16_ps(acc[i][j], reinterpret_cast<__m512bh>(x), v[j]);
      }
    }
  };
  const bool short_rows = depth <= kShortRow;
  int64_t k = 0;
  for (; k + 4 <= depth; k += 4) {
    if (short_rows) PrefetchNextRows<kRows>(a, lda, k);
    step(k);
    step(k + 1);
    step(k + 2);
    step(k + 3);
    ahead.Tick();
  }
  for (; k < depth; ++k) step(k);
  *prefetch = ahead;
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) _mm512_store_ps(sums + i * kPanelCols + j * 16, acc[i][j]);
  }
}

// f(std::integral_constant<DType, ...>) of a dtype of bytes.
template <class F>
auto WithByteType(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kFloat8E4M3FN:
      return f(std::integral_constant<DType, DType::kFloat8E4M3FN>());
    case DType::kFloat8E5M2:
      return f(std::integral_constant<DType, DType::kFloat8E5M2>());
    default:
      return f(std::integral_constant<DType, DType::kInt8>());
  }
}

// As Bf16Tile::Pack, of bytes: two make a dword.
template <DType kType>
void PackBytes(const PanelGemm& g, int64_t column, int64_t valid, int64_t begin, int64_t count,
               uint32_t* to) {
  const char* rows = static_cast<const char*>(g.weight) + column * g.ldw + 2 * begin;
  const int64_t bytes = g.k - 2 * begin;
  for (int64_t d = 0; d < count; d += 16) {
    Transpose16x16(
        [&](int i) __attribute__((always_inline)) {
          const char* p = rows + i * g.ldw + 2 * d;
          __builtin_prefetch(p + 256);
          return i < valid ? LoadDecoded<kType>(p, bytes - 2 * d) : _mm512_setzero_si512();
        },
        [&](int j, __m512i v)
            __attribute__((always_inline)) { _mm512_store_si512(to + (d + j) * kPanelCols, v); });
  }
}

struct Bf16Tile {
  static constexpr int64_t kPerDword = 2;

  static void Multiply(int rows, int64_t depth, const char* a, int64_t lda,
                       const uint32_t* const* groups, float* sums, bool accumulate,
                       PacedPrefetch* prefetch) {
    switch (rows) {
      case 1:
        return MultiplyRows<1>(depth, a, lda, groups, sums, accumulate, prefetch);
      case 2:
        return MultiplyRows<2>(depth, a, lda, groups, sums, accumulate, prefetch);
      case 3:
        return MultiplyRows<3>(depth, a, lda, groups, sums, accumulate, prefetch);
      case 4:
        return MultiplyRows<4>(depth, a, lda, groups, sums, accumulate, prefetch);
      case 5:
        return MultiplyRows<5>(depth, a, lda, groups, sums, accumulate, prefetch);
      case 6:
        return MultiplyRows<6>(depth, a, lda, groups, sums, accumulate, prefetch);
    }
  }

  // Dwords [begin, begin + count) of weight rows [column, column + valid) into a group.
  static void Pack(const PanelGemm& g, int64_t column, int64_t valid, int64_t begin, int64_t count,
                   uint32_t* to) {
    if (g.bytes)
      return WithByteType(g.byte_dtype, [&](auto type) {
        PackBytes<type.value>(g, column, valid, begin, count, to);
      });
    const char* rows = static_cast<const char*>(g.weight) + column * g.ldw * 2 + begin * 4;
    PackGroup(rows, g.ldw * 2, valid, g.k * 2 - begin * 4, (count + 15) / 16 * 16, to, kPanelCols);
  }

  // The same of 64 columns of a weight stored [k, n].
  static void PackTransposed(const PanelGemm& g, int64_t column, int64_t valid, int64_t begin,
                             int64_t count, uint32_t* to) {
    const char* rows = static_cast<const char*>(g.weight) + (2 * begin * g.ldw + column) * 2;
    PackRowPairs(rows, g.ldw * 2, valid, g.k - 2 * begin, count, to, kPanelCols);
  }
};

struct Bf16Dot {
  using Acc = __m512;
  using Vec = __m512bh;
  static constexpr int64_t kStep = 32;
  static constexpr int64_t kElementBytes = 2;
  static constexpr int64_t kVecBytes = 64;
  static constexpr int64_t kMaxRows = 6;

  static __m512 Zero() { return _mm512_setzero_ps(); }
  static __m512bh LoadX(const char* p) { return reinterpret_cast<__m512bh>(_mm512_load_si512(p)); }
  static __m512bh LoadW(const char* p) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p)); }
  static __m512bh LoadWSome(const char* p, int64_t n) {
    return reinterpret_cast<__m512bh>(LoadBytes(p, n * 2));
  }
  static __m512 MulAdd(__m512bh x, __m512bh w, __m512 acc) { return _mm512_dpbf16_ps(acc, x, w); }
  static void StoreSums(const __m512* a, float* out) { SumFour(a, out); }
};

struct Int8Dot : Bf16Dot {
  static constexpr int64_t kElementBytes = 1;
  static constexpr int64_t kMaxRows = 4;  // decoding takes registers too
  static __m512bh LoadW(const char* p) { return LoadWSome(p, 32); }
  static __m512bh LoadWSome(const char* p, int64_t n) {
    return reinterpret_cast<__m512bh>(LoadDecoded<DType::kInt8>(p, n));
  }
};

// x lies in vectors of even and of odd k in turn.
template <int kMan>
struct Fp8Dot {
  using Acc = __m512;
  using Vec = EvenOdd;
  static constexpr int64_t kStep = 64;
  static constexpr int64_t kElementBytes = 1;
  static constexpr int64_t kVecBytes = 128;
  static constexpr int64_t kMaxRows = 4;

  static __m512 Zero() { return _mm512_setzero_ps(); }
  static EvenOdd LoadX(const char* p) { return {_mm512_load_si512(p), _mm512_load_si512(p + 64)}; }
  static EvenOdd LoadW(const char* p) { return DecodeFp8Apart<kMan>(_mm512_loadu_si512(p)); }
  static EvenOdd LoadWSome(const char* p, int64_t n) {
    return DecodeFp8Apart<kMan>(LoadBytes(p, n));
  }
  static __m512 MulAdd(const EvenOdd& x, const EvenOdd& w, __m512 acc) {
    acc = _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(x.even),
                           reinterpret_cast<__m512bh>(w.even));
    return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(x.odd),
                            reinterpret_cast<__m512bh>(w.odd));
  }
  static void StoreSums(const __m512* a, float* out) { SumFour(a, out); }

  static void PackX(const PanelGemm& g, char* to) {
    for (int64_t m = 0; m < g.m; ++m) {
      const char* row = static_cast<const char*>(g.x) + m * g.ldx * 2;
      for (int64_t k = 0; k < g.k; k += kStep) {
        const int64_t bytes = (g.k - k) * 2;
        const __m512i first = LoadBytes(row + k * 2, bytes);
        const __m512i second =
            bytes > 64 ? LoadBytes(row + k * 2 + 64, bytes - 64) : _mm512_setzero_si512();
        const EvenOdd x = TakeApart(first, second);
        char* at = to + (k / kStep * g.m + m) * kVecBytes;
        _mm512_store_si512(at, x.even);
        _mm512_store_si512(at + 64, x.odd);
      }
    }
  }
};

template <int kMan>
bool Fp8Rows(int num_threads, const PanelGemm& g) {
  return DotRowsGemm<Fp8Dot<kMan>>(num_threads, g, [&](char* to) { Fp8Dot<kMan>::PackX(g, to); });
}

}  // namespace

bool Bf16Gemm(int num_threads, const PanelGemm& g) {
  NestRows x;
  x.data = static_cast<const char*>(g.x);
  x.stride = g.ldx * 2;
  x.whole = g.k / 2;
  if (g.k % 2 != 0) {
    uint32_t* last = ScratchAs<uint32_t>(1, static_cast<size_t>(g.m) + 1);
    if (last == nullptr) return false;
    for (int64_t m = 0; m < g.m; ++m) {
      uint16_t value;
      std::memcpy(&value, x.data + m * x.stride + (g.k - 1) * 2, 2);
      last[m] = value;
    }
    x.last = last;
  }
  return RunPanelGemm<Bf16Tile>(num_threads, g, x, g.m);
}

bool Bf16Rows(int num_threads, const PanelGemm& g) {
  const auto pack_x = [&](char* to) {
    for (int64_t m = 0; m < g.m; ++m) {
      const char* row = static_cast<const char*>(g.x) + m * g.ldx * 2;
      for (int64_t k = 0; k < g.k; k += Bf16Dot::kStep) {
        char* at = to + (k / Bf16Dot::kStep * g.m + m) * Bf16Dot::kVecBytes;
        _mm512_store_si512(at, LoadBytes(row + k * 2, (g.k - k) * 2));
      }
    }
  };
  if (!g.bytes) return DotRowsGemm<Bf16Dot>(num_threads, g, pack_x);
  if (g.byte_dtype == DType::kInt8) return DotRowsGemm<Int8Dot>(num_threads, g, pack_x);
  return g.byte_dtype == DType::kFloat8E5M2 ? Fp8Rows<2>(num_threads, g)
                                            : Fp8Rows<3>(num_threads, g);
}

}  // namespace kpt::cpu::avx512_bf16
