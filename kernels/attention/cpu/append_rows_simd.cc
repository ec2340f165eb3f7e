// kv_append in portable SIMD: each row is read to floats, turned, scaled, and written once.
#include <cstring>

#include "kernels/attention/cpu/append_rows.h"
#include "kernels/attention/cpu/flash_block.h"
#include "kernels/attention/cpu/rotate_rows.h"
#include "kernels/base/simd_fp8.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

// Bytes of a vector of them: rows of floats are padded with zeros to as many.
constexpr int64_t kBytes = 4 * kLanes;

struct Int8Code {
  FloatVec inverse;
  HWY_INLINE UIntVec operator()(FloatVec v) const {
    v = hn::Mul(v, inverse);
    v = hn::IfThenElseZero(hn::Eq(v, v), v);
    v = hn::Max(hn::Min(v, Set(127.0f)), Set(-127.0f));
    return hn::And(hn::BitCast(UIntTag(), hn::NearestInt(v)), hn::Set(UIntTag(), 0xffu));
  }
};

struct E4M3Code {
  FloatVec inverse;
  HWY_INLINE UIntVec operator()(FloatVec v) const {
    return EncodeNearest<E4M3Format>()(hn::Mul(v, inverse));
  }
};

template <class Encode>
KPT_SIMD_INLINE void EncodeRow(const Encode& encode, const float* row, int64_t n, void* out) {
  uint8_t* codes = static_cast<uint8_t*>(out);
  for (int64_t i = 0; i < n; i += kBytes) {
    const float* x = row + i;
    const auto bytes = PackCodes(encode(Load(x)), encode(Load(x + kLanes)),
                                 encode(Load(x + 2 * kLanes)), encode(Load(x + 3 * kLanes)));
    if (i + kBytes <= n) {
      hn::StoreU(bytes, ByteTag(), codes + i);
    } else {
      hn::StoreN(bytes, ByteTag(), codes + i, static_cast<size_t>(n - i));
    }
  }
}

// The largest magnitude; NaN where there is one, or (skip_nan) not counted.
KPT_SIMD_INLINE float Largest(const float* row, int64_t n, bool skip_nan) {
  FloatVec most = Set(0.0f), nan = Set(0.0f);
  for (int64_t i = 0; i < n; i += kLanes) {
    const FloatVec x = hn::Abs(Load(row + i));
    most = hn::Max(most, hn::IfThenElseZero(hn::Eq(x, x), x));
    nan = hn::Add(nan, hn::Sub(x, x));  // NaN for an infinity too, which is as well
  }
  const float largest = hn::ReduceMax(FloatTag(), most);
  const float rest = hn::ReduceSum(FloatTag(), nan);
  return !skip_nan && rest != rest ? rest : largest;
}

KPT_SIMD_INLINE float MeasuredScale(DType cache_dtype, const float* row, int64_t n) {
  const bool int8 = cache_dtype == DType::kInt8;
  const float largest = Largest(row, n, !int8);
  if (largest == 0.0f) return 1.0f;
  const float scale = largest / (int8 ? 127.0f : 448.0f);
  if (!(scale <= 3.4028234663852886e38f)) return __builtin_nanf("");
  return scale < 0x1p-126f ? 0x1p-126f : scale;
}

// One token's row of one head.
void AppendRow(const AppendJob& job, const AppendSide& side, const Rotation* rotation,
               const Angles& angles, int64_t batch, int64_t head, int64_t token, KeyPlace place) {
  const HeadStrides& s = side.scale_stride;
  const void* in = RowOf(side.in, side.in_stride, batch, head, token, job.dtype);
  void* out = const_cast<char*>(
      RowOf(side.cache, side.cache_stride, place.first, head, place.row, job.cache_dtype));
  if (rotation == nullptr && side.scale == nullptr && side.scale_out == nullptr &&
      job.dtype == job.cache_dtype) {
    std::memcpy(out, in, static_cast<size_t>(side.dim * ItemSize(job.dtype)));
    return;
  }
  alignas(64) float row[kFlashMaxDim];
  CopyRow(in, job.dtype, side.dim, RoundUp(side.dim, kBytes), row);
  if (rotation != nullptr) TurnRow(*rotation, angles, row);
  const int64_t at = place.first * s.batch + head * s.head + place.row * s.row;
  float scale = 1.0f;
  if (side.scale_out != nullptr) {
    scale = MeasuredScale(job.cache_dtype, row, side.dim);
    side.scale_out[at] = scale;
  } else if (side.scale != nullptr) {
    scale = side.scale[at];
  }
  const float inverse = 1.0f / scale;
  switch (job.cache_dtype) {
    case DType::kInt8:
      return EncodeRow(Int8Code{Set(inverse)}, row, side.dim, out);
    case DType::kFloat8E4M3FN:
      return EncodeRow(E4M3Code{Set(inverse)}, row, side.dim, out);
    default:
      return WriteRow(row, inverse, side.dim, job.cache_dtype, out);
  }
}

}  // namespace

void AppendTokens(const AppendJob& job, int64_t begin, int64_t end) {
  const Rotation* rotation = job.rotation.pairs > 0 ? &job.rotation : nullptr;
  const Angles none{};
  Angles angles;
  for (int64_t at = begin; at < end; ++at) {
    const int64_t batch = at / job.tokens, token = at % job.tokens;
    const KeyPlace place = PlaceOf(job, batch, SeqLen(job, batch) - job.tokens + token);
    if (rotation != nullptr) LoadAngles(*rotation, batch, token, &angles);
    for (int64_t head = 0; head < job.heads; ++head) {
      AppendRow(job, job.k, rotation, angles, batch, head, token, place);
      AppendRow(job, job.v, nullptr, none, batch, head, token, place);
    }
  }
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();
