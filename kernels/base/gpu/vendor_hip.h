// vendor.h for HIP: clang's builtins alone, so that device code compiles without ROCm's headers.
#ifndef KPT_KERNELS_BASE_GPU_VENDOR_HIP_H_
#define KPT_KERNELS_BASE_GPU_VENDOR_HIP_H_

// What the codecs call, for the device: the C library's is the host's.
namespace std {
__attribute__((device, always_inline)) inline void* memcpy(void* to, const void* from,
                                                           unsigned long bytes) {
  return __builtin_memcpy(to, from, bytes);
}
}  // namespace std

#include "kernels/base/float_codec.h"

#define KPT_HIP_FIRST_OF(first, ...) first
#define KPT_KERNEL(...) \
  __attribute__((global)) void __attribute__((launch_bounds(KPT_HIP_FIRST_OF(__VA_ARGS__, 1))))
#define KPT_PARAMS(type) const type
#define KPT_DEVICE [[maybe_unused]] static __attribute__((device, always_inline))
#define KPT_DEVICE_MEMBER __attribute__((device, always_inline))
#define KPT_SHARED(type, name, count) __attribute__((shared)) type name[count]

namespace kpt::gpu {

// CDNA runs waves of 64, RDNA of 32. (The host's pass has neither, and no use for it.)
#if defined(__GFX10__) || defined(__GFX11__) || defined(__GFX12__)
inline constexpr int kWaveSize = 32;
#else
inline constexpr int kWaveSize = 64;
#endif

template <class T>
using SharedPtr = T*;

KPT_DEVICE int ThreadIndex() { return static_cast<int>(__builtin_amdgcn_workitem_id_x()); }
KPT_DEVICE int BlockThreads() { return static_cast<int>(__builtin_amdgcn_workgroup_size_x()); }
KPT_DEVICE int64_t BlockIndex() { return static_cast<int64_t>(__builtin_amdgcn_workgroup_id_x()); }
KPT_DEVICE int64_t GridBlocks() {
  return static_cast<int64_t>(__builtin_amdgcn_grid_size_x() / __builtin_amdgcn_workgroup_size_x());
}
KPT_DEVICE void SyncBlock() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
KPT_DEVICE float ShuffleXor(float x, int mask) {
  const int lane = static_cast<int>(__builtin_amdgcn_workitem_id_x()) % kWaveSize;
  return __builtin_bit_cast(
      float, __builtin_amdgcn_ds_bpermute((lane ^ mask) * 4, __builtin_bit_cast(int, x)));
}

using HipWords4 = __attribute__((ext_vector_type(4))) uint32_t;
using HipWords2 = __attribute__((ext_vector_type(2))) uint32_t;

KPT_DEVICE Words16 Load16(const void* p) {
  return __builtin_bit_cast(Words16, *static_cast<const HipWords4*>(p));
}
// For what is read once: leaves the caches to others.
KPT_DEVICE Words16 Load16Once(const void* p) {
  return __builtin_bit_cast(Words16, __builtin_nontemporal_load(static_cast<const HipWords4*>(p)));
}
KPT_DEVICE void Store16(void* p, const Words16& v) {
  *static_cast<HipWords4*>(p) = __builtin_bit_cast(HipWords4, v);
}
KPT_DEVICE void Load8(const void* p, uint32_t* lo, uint32_t* hi) {
  const HipWords2 v = __builtin_nontemporal_load(static_cast<const HipWords2*>(p));
  *lo = v.x;
  *hi = v.y;
}
KPT_DEVICE void Store8(void* p, uint32_t lo, uint32_t hi) {
  *static_cast<HipWords2*>(p) = HipWords2{lo, hi};
}

KPT_DEVICE float FloatOf(Float16 x) {
  return static_cast<float>(__builtin_bit_cast(_Float16, x.bits));
}
KPT_DEVICE uint32_t Narrow2(float lo, float hi, BFloat16) {
  const auto round = [](float x) -> uint32_t {  // to nearest even; NaN stays one
    const uint32_t bits = __builtin_bit_cast(uint32_t, x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  };
  return round(lo) | (round(hi) << 16);
}
KPT_DEVICE uint32_t Narrow2(float lo, float hi, Float16) {
  return __builtin_bit_cast(uint16_t, static_cast<_Float16>(lo)) |
         (static_cast<uint32_t>(__builtin_bit_cast(uint16_t, static_cast<_Float16>(hi))) << 16);
}

KPT_DEVICE float SquareRoot(float x) { return __builtin_sqrtf(x); }
KPT_DEVICE float RoundEven(float x) { return __builtin_rintf(x); }
KPT_DEVICE float MaxOf(float a, float b) { return __builtin_fmaxf(a, b); }
KPT_DEVICE float FastExp2(float x) { return __builtin_amdgcn_exp2f(x); }
KPT_DEVICE float NaturalLog(float x) { return __builtin_amdgcn_logf(x) * 0.693147180559945309f; }
KPT_DEVICE float FastReciprocal(float x) { return __builtin_amdgcn_rcpf(x); }

// a in the lowest byte.
KPT_DEVICE uint32_t EncodeFp8x4(float a, float b, float c, float d, Fp8Format format) {
  const float x[4] = {a, b, c, d};
  uint32_t word = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t code = format == Fp8Format::kE4M3FN ? E4M3FN::Encode(x[i], true)
                          : format == Fp8Format::kE5M2 ? E5M2::Encode(x[i], true)
                                                       : E4M3FNUZ::Encode(x[i], true);
    word |= code << (8 * i);
  }
  return word;
}
KPT_DEVICE void DecodeFp8x4(uint32_t word, Fp8Format format, float* out) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t code = (word >> (8 * i)) & 0xffu;
    out[i] = format == Fp8Format::kE4M3FN ? E4M3FN::Decode(code)
             : format == Fp8Format::kE5M2 ? E5M2::Decode(code)
                                          : E4M3FNUZ::Decode(code);
  }
}

}  // namespace kpt::gpu

#endif  // KPT_KERNELS_BASE_GPU_VENDOR_HIP_H_
