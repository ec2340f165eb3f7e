// Matrix products in float, portable SIMD, compiled once per instruction set. half and bfloat16 are
// converted as they are read: x once per call, the weight while it is packed (or, for few rows of
// x, on its way into the registers).
#include "kernels/base/simd_bytes.h"
#include "kernels/base/simd_io.h"

#define KPT_NEST_EMIT EmitRows

#include "kernels/gemm/cpu/dot_rows.h"
#include "kernels/gemm/cpu/panel_nest.h"
#if HWY_TARGET <= HWY_AVX3
#include "kernels/gemm/cpu/pack_avx512.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

// f(T*) of the type that a weight is stored in.
template <class F>
auto WithWeightType(const PanelGemm& g, const F& f) {
  if (g.bytes) {
    switch (g.byte_dtype) {
      case DType::kFloat8E4M3FN:
        return f(static_cast<Fp8<E4M3Format>*>(nullptr));
      case DType::kFloat8E5M2:
        return f(static_cast<Fp8<E5M2Format>*>(nullptr));
      default:
        return f(static_cast<Int8*>(nullptr));
    }
  }
  switch (g.x_dtype) {
    case DType::kFloat16:
      return f(static_cast<Half*>(nullptr));
    case DType::kBFloat16:
      return f(static_cast<BFloat16*>(nullptr));
    default:
      return f(static_cast<float*>(nullptr));
  }
}

// With 32 registers the tile spans all 64 columns of a panel, else two vectors of them.
constexpr int kTileVecs = kLanes == 16 ? 4 : 2;
constexpr int64_t kTileCols = kTileVecs * kLanes;
static_assert(kLanes <= kPanelGroup && kPanelGroup % kLanes == 0, "a group holds whole vectors");

// Keeps a broadcast in a register: folded into each product it would cost a load each time.
KPT_SIMD_INLINE FloatVec Pin(FloatVec v) {
#if HWY_TARGET <= HWY_AVX3
  asm("" : "+v"(v.raw));
#elif HWY_ARCH_X86
  asm("" : "+x"(v.raw));
#endif
  return v;
}

// Sums over one slice of K start from zero and are then added to what there is: summing in two
// levels keeps the rounding errors of long K small.
template <int kRows>
KPT_SIMD_INLINE void MultiplySlice(int64_t depth, const char* a, int64_t lda, const float* const* b,
                                   float* sums, bool accumulate, bool prefetch_rows,
                                   PacedPrefetch* prefetch) {
  const FloatTag d;
  FloatVec acc[kRows][kTileVecs];
  HWY_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    HWY_UNROLL(4)
    for (int j = 0; j < kTileVecs; ++j) acc[i][j] = hn::Zero(d);
  }
  const auto step = [&](int64_t k) HWY_ATTR __attribute__((always_inline)) {
    FloatVec v[kTileVecs];
    HWY_UNROLL(4)
    for (int j = 0; j < kTileVecs; ++j) v[j] = hn::Load(d, b[j] + k * kPanelCols);
    HWY_UNROLL(8)
    for (int i = 0; i < kRows; ++i) {
      const FloatVec x = Pin(hn::Set(d, *reinterpret_cast<const float*>(a + i * lda + k * 4)));
      HWY_UNROLL(4)
      for (int j = 0; j < kTileVecs; ++j) acc[i][j] = hn::MulAdd(x, v[j], acc[i][j]);
    }
  };
  int64_t k = 0;
  for (; k + 4 <= depth; k += 4) {
    if (prefetch_rows) PrefetchNextRows<kRows>(a, lda, k);
    step(k);
    step(k + 1);
    step(k + 2);
    step(k + 3);
    prefetch->Tick();
  }
  for (; k < depth; ++k) step(k);
  HWY_UNROLL(8)
  for (int i = 0; i < kRows; ++i) {
    HWY_UNROLL(4)
    for (int j = 0; j < kTileVecs; ++j) {
      float* at = sums + i * kPanelCols + j * kLanes;
      hn::Store(accumulate ? hn::Add(hn::Load(d, at), acc[i][j]) : acc[i][j], d, at);
    }
  }
}

template <int64_t kSlice, int kRows>
HWY_NOINLINE void MultiplyRows(int64_t depth, const char* a, int64_t lda,
                               const uint32_t* const* groups, float* sums, bool accumulate,
                               PacedPrefetch* prefetch) {
  PacedPrefetch ahead = *prefetch;
  PacedPrefetch none;
  for (int64_t col = 0; col < kPanelCols; col += kTileCols) {
    int64_t k = 0;
    do {
      const int64_t left = depth - k;
      const float* b[kTileVecs];
      for (int j = 0; j < kTileVecs; ++j) {
        const int64_t at = col + j * kLanes;
        b[j] = reinterpret_cast<const float*>(groups[at / kPanelGroup]) + at % kPanelGroup +
               k * kPanelCols;
      }
      MultiplySlice<kRows>(left < kSlice ? left : kSlice, a + k * 4, lda, b, sums + col,
                           accumulate || k > 0, col == 0 && depth <= kShortRow,
                           col == 0 ? &ahead : &none);
      k += kSlice;
    } while (k < depth);
  }
  *prefetch = ahead;
}

// Up to 16 floats of a row into a vector-aligned buffer, zero filled.
template <class T>
void LoadBlock(const T* p, int64_t count, float* to) {
  for (int64_t i = 0; i < kPanelGroup; i += kLanes) {
    const int64_t left = count - i;
    const FloatVec v = left >= kLanes ? Load(p + i)
                       : left > 0     ? LoadN(p + i, left)
                                      : hn::Zero(FloatTag());
    hn::Store(v, FloatTag(), to + i);
  }
}

#if HWY_TARGET <= HWY_AVX3

template <class T>
void PackAs(const T* rows, int64_t stride, int64_t valid, int64_t count, uint32_t* to) {
  for (int64_t k = 0; k < count; k += 16) {
    const int64_t left = count - k;
    const auto store = [&](int j, __m512i v) __attribute__((always_inline)) {
      _mm512_store_si512(to + (k + j) * kPanelCols, v);
    };
    if (valid == 16 && left >= 16) {
      Transpose16x16(
          [&](int i) __attribute__((always_inline)) {
            const T* p = rows + i * stride + k;
            __builtin_prefetch(reinterpret_cast<const char*>(p) + 512);
            return _mm512_castps_si512(Load(p).raw);
          },
          store);
    } else {
      Transpose16x16(
          [&](int i) __attribute__((always_inline)) {
            if (i >= valid) return _mm512_setzero_si512();
            const T* p = rows + i * stride + k;
            return _mm512_castps_si512((left >= 16 ? Load(p) : LoadN(p, left)).raw);
          },
          store);
    }
  }
}

#else

template <class T>
void PackAs(const T* rows, int64_t stride, int64_t valid, int64_t count, uint32_t* to) {
  alignas(64) float block[kPanelGroup * kPanelGroup];
  float* out = reinterpret_cast<float*>(to);
  const hn::FixedTag<float, 4> d;
  const hn::RepartitionToWide<decltype(d)> dw;
  for (int64_t k = 0; k < count; k += kPanelGroup) {
    for (int64_t i = 0; i < kPanelGroup; ++i) {
      LoadBlock(rows + i * stride + k, i < valid ? count - k : 0, block + i * kPanelGroup);
    }
    for (int64_t i = 0; i < kPanelGroup; i += 4) {
      for (int64_t j = 0; j < kPanelGroup; j += 4) {
        const float* from = block + i * kPanelGroup + j;
        const auto r0 = hn::Load(d, from);
        const auto r1 = hn::Load(d, from + kPanelGroup);
        const auto r2 = hn::Load(d, from + 2 * kPanelGroup);
        const auto r3 = hn::Load(d, from + 3 * kPanelGroup);
        const auto lo01 = hn::BitCast(dw, hn::InterleaveLower(d, r0, r1));
        const auto lo23 = hn::BitCast(dw, hn::InterleaveLower(d, r2, r3));
        const auto hi01 = hn::BitCast(dw, hn::InterleaveUpper(d, r0, r1));
        const auto hi23 = hn::BitCast(dw, hn::InterleaveUpper(d, r2, r3));
        float* at = out + (k + j) * kPanelCols + i;
        hn::Store(hn::BitCast(d, hn::InterleaveLower(dw, lo01, lo23)), d, at);
        hn::Store(hn::BitCast(d, hn::InterleaveUpper(dw, lo01, lo23)), d, at + kPanelCols);
        hn::Store(hn::BitCast(d, hn::InterleaveLower(dw, hi01, hi23)), d, at + 2 * kPanelCols);
        hn::Store(hn::BitCast(d, hn::InterleaveUpper(dw, hi01, hi23)), d, at + 3 * kPanelCols);
      }
    }
  }
}

#endif

template <class T>
void PackWeight(const PanelGemm& g, int64_t column, int64_t valid, int64_t begin, int64_t count,
                uint32_t* to) {
  PackAs(static_cast<const T*>(g.weight) + column * g.ldw + begin, g.ldw, valid, count, to);
}

// The same of a weight stored [k, n]: its rows are panel rows already.
template <class T>
void PackTransposedAs(const PanelGemm& g, int64_t column, int64_t valid, int64_t begin,
                      int64_t count, uint32_t* to) {
  constexpr int64_t kAhead = 8;  // rows: each lies in a page of its own
  const T* rows = static_cast<const T*>(g.weight) + begin * g.ldw + column;
  float* out = reinterpret_cast<float*>(to);
  for (int64_t k = 0; k < count; ++k) {
    const T* p = rows + k * g.ldw;
    for (int64_t b = 0; b < valid * static_cast<int64_t>(sizeof(T)); b += 64) {
      __builtin_prefetch(reinterpret_cast<const char*>(p + kAhead * g.ldw) + b);
    }
    int64_t j = 0;
    for (; j + kLanes <= valid; j += kLanes) hn::Store(Load(p + j), FloatTag(), out + j);
    if (j < valid) hn::Store(LoadN(p + j, valid - j), FloatTag(), out + j);
    out += kPanelCols;
  }
}

// For a few rows other libraries run a dot product in many partial sums. Short slices are as exact,
// and with so few rows the weight's way from memory hides what they cost.
constexpr int64_t kFewRows = 3;
constexpr int64_t kLongSlice = 128;
constexpr int64_t kShortSlice = 16;

template <int64_t kSlice>
struct FloatTile {
  static constexpr int64_t kPerDword = 1;

  static void Multiply(int rows, int64_t depth, const char* a, int64_t lda,
                       const uint32_t* const* groups, float* sums, bool accumulate,
                       PacedPrefetch* prefetch) {
    switch (rows) {
      case 1:
        return MultiplyRows<kSlice, 1>(depth, a, lda, groups, sums, accumulate, prefetch);
      case 2:
        return MultiplyRows<kSlice, 2>(depth, a, lda, groups, sums, accumulate, prefetch);
      case 3:
        return MultiplyRows<kSlice, 3>(depth, a, lda, groups, sums, accumulate, prefetch);
    }
    if constexpr (kSlice != kShortSlice) {
      switch (rows) {
        case 4:
          return MultiplyRows<kSlice, 4>(depth, a, lda, groups, sums, accumulate, prefetch);
        case 5:
          return MultiplyRows<kSlice, 5>(depth, a, lda, groups, sums, accumulate, prefetch);
        case 6:
          return MultiplyRows<kSlice, 6>(depth, a, lda, groups, sums, accumulate, prefetch);
      }
    }
  }

  static void Pack(const PanelGemm& g, int64_t column, int64_t valid, int64_t begin, int64_t count,
                   uint32_t* to) {
    WithWeightType(g, [&](auto* type) {
      PackWeight<std::remove_pointer_t<decltype(type)>>(g, column, valid, begin, count, to);
    });
  }

  static void PackTransposed(const PanelGemm& g, int64_t column, int64_t valid, int64_t begin,
                             int64_t count, uint32_t* to) {
    switch (g.x_dtype) {
      case DType::kFloat16:
        return PackTransposedAs<Half>(g, column, valid, begin, count, to);
      case DType::kBFloat16:
        return PackTransposedAs<BFloat16>(g, column, valid, begin, count, to);
      default:
        return PackTransposedAs<float>(g, column, valid, begin, count, to);
    }
  }
};

template <class T>
struct FloatDot {
  using Acc = FloatVec;
  using Vec = FloatVec;
  static constexpr int64_t kStep = kLanes;
  static constexpr int64_t kElementBytes = sizeof(T);
  static constexpr int64_t kVecBytes = kLanes * 4;
  static constexpr int64_t kMaxRows = kLanes == 16 ? 6 : 2;

  static FloatVec Zero() { return hn::Zero(FloatTag()); }
  static FloatVec LoadX(const char* p) {
    return hn::Load(FloatTag(), reinterpret_cast<const float*>(p));
  }
  static FloatVec LoadW(const char* p) { return Load(reinterpret_cast<const T*>(p)); }
  static FloatVec LoadWSome(const char* p, int64_t n) {
    return LoadN(reinterpret_cast<const T*>(p), n);
  }
  static FloatVec MulAdd(FloatVec x, FloatVec w, FloatVec acc) { return hn::MulAdd(x, w, acc); }
  static void StoreSums(const FloatVec* a, float* out) {
    const FloatTag d;
    const hn::RepartitionToWide<FloatTag> dw;
    const auto u = hn::BitCast(
        dw, hn::Add(hn::InterleaveLower(d, a[0], a[1]), hn::InterleaveUpper(d, a[0], a[1])));
    const auto v = hn::BitCast(
        dw, hn::Add(hn::InterleaveLower(d, a[2], a[3]), hn::InterleaveUpper(d, a[2], a[3])));
    // Every 128-bit block now gives four partial sums in order.
    const FloatVec s = hn::Add(hn::BitCast(d, hn::InterleaveLower(dw, u, v)),
                               hn::BitCast(d, hn::InterleaveUpper(dw, u, v)));
    FoldBlocks(s, out);
  }

 private:
  template <class V>
  static void FoldBlocks(V v, float* out) {
    const hn::DFromV<V> d;
    if constexpr (hn::MaxLanes(d) > 4) {
      const hn::Half<decltype(d)> dh;
      FoldBlocks(hn::Add(hn::LowerHalf(dh, v), hn::UpperHalf(dh, v)), out);
    } else {
      hn::StoreU(v, d, out);
    }
  }
};

// Rows [m0, m0 + rows) of x as floats, dense.
template <class T>
void ConvertRows(int num_threads, const PanelGemm& g, int64_t m0, int64_t rows, float* to) {
  const T* x = static_cast<const T*>(g.x) + m0 * g.ldx;
  const int64_t grain = 65536 / (g.k + 1) + 1;
  ParallelFor(num_threads, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const T* from = x + m * g.ldx;
      float* row = to + m * g.k;
      int64_t k = 0;
      for (; k + kLanes <= g.k; k += kLanes) hn::StoreU(Load(from + k), FloatTag(), row + k);
      if (k < g.k) hn::StoreN(LoadN(from + k, g.k - k), FloatTag(), row + k, g.k - k);
    }
  });
}

bool RunFloatTiles(int num_threads, const PanelGemm& g, const NestRows& x, int64_t rows) {
  return g.m <= kFewRows ? RunPanelGemm<FloatTile<kShortSlice>>(num_threads, g, x, rows)
                         : RunPanelGemm<FloatTile<kLongSlice>>(num_threads, g, x, rows);
}

// x in passes of rows whose float copy stays in the outer cache.
template <class T>
bool ConvertingGemm(int num_threads, const PanelGemm& g) {
  constexpr int64_t kPassFloats = 4 << 20;
  constexpr int64_t kLeastRows = 512;  // so that packing the weight again does not weigh
  int64_t pass = kPassFloats / (g.k + 1);
  if (pass < kLeastRows) pass = kLeastRows;
  if (pass > g.m) pass = g.m;
  float* x = ScratchAs<float>(1, static_cast<size_t>(pass * g.k) + 1);
  if (x == nullptr) return false;
  NestRows rows;
  rows.data = reinterpret_cast<const char*>(x);
  rows.stride = g.k * 4;
  rows.whole = g.k;
  for (int64_t m = 0; m < g.m; m += pass) {
    const int64_t count = g.m - m < pass ? g.m - m : pass;
    ConvertRows<T>(num_threads, g, m, count, x);
    PanelGemm part = g;
    part.epilogue.y =
        static_cast<char*>(g.epilogue.y) + m * g.epilogue.ldy * ItemSize(g.epilogue.y_dtype);
    if (g.epilogue.grad != nullptr) {
      part.epilogue.grad = static_cast<const char*>(g.epilogue.grad) +
                           m * g.epilogue.ldgrad * ItemSize(g.epilogue.y_dtype);
    }
    if (g.epilogue.t != nullptr) {
      part.epilogue.t =
          static_cast<char*>(g.epilogue.t) + m * g.epilogue.ldt * ItemSize(g.epilogue.y_dtype);
    }
    // Decided by all rows of the call: a row's sums do not depend on the pass it falls into.
    if (!RunFloatTiles(num_threads, part, rows, count)) return false;
  }
  return true;
}

// x as FloatDot wants it.
template <class T>
void PackX(const PanelGemm& g, char* to) {
  for (int64_t m = 0; m < g.m; ++m) {
    const T* row = static_cast<const T*>(g.x) + m * g.ldx;
    for (int64_t k = 0; k < g.k; k += kLanes) {
      const FloatVec v = g.k - k >= kLanes ? Load(row + k) : LoadN(row + k, g.k - k);
      hn::Store(v, FloatTag(), reinterpret_cast<float*>(to) + (k / kLanes * g.m + m) * kLanes);
    }
  }
}

}  // namespace

bool FloatGemm(int num_threads, const PanelGemm& g) {
  if (g.x_dtype == DType::kFloat16) return ConvertingGemm<Half>(num_threads, g);
  if (g.x_dtype == DType::kBFloat16) return ConvertingGemm<BFloat16>(num_threads, g);
  NestRows rows;
  rows.data = static_cast<const char*>(g.x);
  rows.stride = g.ldx * 4;
  rows.whole = g.k;
  return RunFloatTiles(num_threads, g, rows, g.m);
}

bool FloatRows(int num_threads, const PanelGemm& g) {
  return WithWeightType(g, [&](auto* type) {
    using Dot = FloatDot<std::remove_pointer_t<decltype(type)>>;
    return DotRowsGemm<Dot>(num_threads, g, [&](char* to) {
      if (g.x_dtype == DType::kFloat16) return PackX<Half>(g, to);
      if (g.x_dtype == DType::kBFloat16) return PackX<BFloat16>(g, to);
      return PackX<float>(g, to);
    });
  });
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();
