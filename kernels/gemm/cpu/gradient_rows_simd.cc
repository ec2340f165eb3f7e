// Transpose and ColumnSums in portable SIMD.
#include "kernels/base/simd_io.h"
#include "kernels/gemm/cpu/gradient_rows.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

constexpr int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }

// Blocks of as many rows and columns as a 128-bit vector has elements.
template <class U>
void TransposeBlock(const U* from, int64_t ld, U* to, int64_t ldt) {
  const hn::FixedTag<U, 16 / sizeof(U)> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int kSide = 16 / sizeof(U);
  V v[kSide], t[kSide];
  HWY_UNROLL(8)
  for (int i = 0; i < kSide; ++i) v[i] = hn::LoadU(d, from + i * ld);
  // Rows i and i + kSide / 2 interleave: after as many rounds as the side has bits, all have moved.
  HWY_UNROLL(3)
  for (int round = 1; round < kSide; round *= 2) {
    HWY_UNROLL(4)
    for (int i = 0; i < kSide / 2; ++i) {
      t[2 * i] = hn::InterleaveLower(d, v[i], v[i + kSide / 2]);
      t[2 * i + 1] = hn::InterleaveUpper(d, v[i], v[i + kSide / 2]);
    }
    HWY_UNROLL(8)
    for (int i = 0; i < kSide; ++i) v[i] = t[i];
  }
  HWY_UNROLL(8)
  for (int i = 0; i < kSide; ++i) hn::StoreU(v[i], d, to + i * ldt);
}

template <class U>
void TransposeAs(const RowMatrix& from, int64_t begin, int64_t end, U* to, int64_t ldt) {
  constexpr int64_t kSide = 16 / sizeof(U);
  constexpr int64_t kRows = 64;  // of a tile: a cache line or two of each row that is written
  constexpr int64_t kCols = 64;
  for (int64_t r0 = begin; r0 < end; r0 += kRows) {
    const int64_t r1 = Least(r0 + kRows, end);
    for (int64_t c0 = 0; c0 < from.cols; c0 += kCols) {
      const int64_t c1 = Least(c0 + kCols, from.cols);
      for (int64_t c = c0; c < c1; c += kSide) {
        for (int64_t r = r0; r < r1; r += kSide) {
          const U* block = static_cast<const U*>(from.At(r, c));
          U* out = to + c * ldt + r;
          if (r + kSide <= r1 && c + kSide <= c1) {
            TransposeBlock(block, from.ld, out, ldt);
            continue;
          }
          for (int64_t i = 0; i < Least(kSide, r1 - r); ++i) {
            for (int64_t j = 0; j < Least(kSide, c1 - c); ++j) {
              out[j * ldt + i] = block[i * from.ld + j];
            }
          }
        }
      }
    }
  }
}

void AddTo(const float* from, float* to, int64_t count) {
  const FloatTag d;
  for (int64_t i = 0; i < count; i += kLanes) {
    hn::Store(hn::Add(hn::Load(d, to + i), hn::Load(d, from + i)), d, to + i);
  }
}

void Clear(float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = 0.0f;
}

template <class T>
void ColumnSumsAs(const RowMatrix& from, int64_t begin, int64_t end, T* to) {
  constexpr int64_t kCols = 256;
  constexpr int kLevels = 5;
  constexpr int64_t kFold = 8;
  const FloatTag d;
  alignas(64) float sums[kLevels][kCols];
  for (int64_t c0 = begin; c0 < end; c0 += kCols) {
    const int64_t cols = Least(kCols, end - c0);
    const int64_t whole = cols / kLanes * kLanes;
    const int64_t padded = (cols + kLanes - 1) / kLanes * kLanes;
    for (auto& level : sums) Clear(level, padded);
    for (int64_t r = 0; r < from.rows; ++r) {
      const T* row = static_cast<const T*>(from.At(r, c0));
      for (int64_t i = 0; i < whole; i += kLanes) {
        hn::Store(hn::Add(hn::Load(d, sums[0] + i), Load(row + i)), d, sums[0] + i);
      }
      if (whole < cols) {
        const FloatVec rest = LoadN(row + whole, cols - whole);
        hn::Store(hn::Add(hn::Load(d, sums[0] + whole), rest), d, sums[0] + whole);
      }
      int64_t folded = r + 1;
      for (int level = 0; level + 1 < kLevels && folded % kFold == 0; ++level) {
        AddTo(sums[level], sums[level + 1], padded);
        Clear(sums[level], padded);
        folded /= kFold;
      }
    }
    for (int i = 1; i < kLevels; ++i) AddTo(sums[i - 1], sums[i], padded);
    for (int64_t i = 0; i < cols; i += kLanes) {
      StoreN(hn::Load(d, sums[kLevels - 1] + i), to + c0 + i, Least(kLanes, cols - i));
    }
  }
}

}  // namespace

void Transpose(const RowMatrix& from, int64_t begin, int64_t end, void* to, int64_t ldt) {
  if (ItemSize(from.dtype) == 2) {
    TransposeAs(from, begin, end, static_cast<uint16_t*>(to), ldt);
  } else {
    TransposeAs(from, begin, end, static_cast<uint32_t*>(to), ldt);
  }
}

void ColumnSums(const RowMatrix& from, int64_t begin, int64_t end, void* to) {
  switch (from.dtype) {
    case DType::kFloat16:
      return ColumnSumsAs(from, begin, end, static_cast<Half*>(to));
    case DType::kBFloat16:
      return ColumnSumsAs(from, begin, end, static_cast<BFloat16*>(to));
    default:
      return ColumnSumsAs(from, begin, end, static_cast<float*>(to));
  }
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();
