// vendor.h for CUDA, sm_80 and later. Inline PTX instead of CUDA's own headers of narrow types:
// those cost more compile time than a kernel.
#ifndef KPT_KERNELS_BASE_GPU_VENDOR_CUDA_H_
#define KPT_KERNELS_BASE_GPU_VENDOR_CUDA_H_

#include "kernels/base/float_codec.h"

#define KPT_KERNEL(...) __global__ void __launch_bounds__(__VA_ARGS__)
#define KPT_PARAMS(type) const __grid_constant__ type
#define KPT_DEVICE static __device__ __forceinline__
#define KPT_DEVICE_MEMBER __device__ __forceinline__
#define KPT_SHARED(type, name, count) __shared__ type name[count]
#define KPT_DYNAMIC_SHARED(type, name)                          \
  extern __shared__ __align__(128) unsigned char kpt_dynamic[]; \
  type* const name = reinterpret_cast<type*>(kpt_dynamic)

namespace kpt::gpu {

inline constexpr int kWaveSize = 32;

template <class T>
using SharedPtr = T*;

KPT_DEVICE int ThreadIndex() { return static_cast<int>(threadIdx.x); }
KPT_DEVICE int BlockThreads() { return static_cast<int>(blockDim.x); }
KPT_DEVICE int64_t BlockIndex() { return static_cast<int64_t>(blockIdx.x); }
KPT_DEVICE int64_t GridBlocks() { return static_cast<int64_t>(gridDim.x); }
KPT_DEVICE void SyncBlock() { __syncthreads(); }
KPT_DEVICE float ShuffleXor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }

// In PTX, since nvcc makes four accesses of four bytes out of a structure where it is unsure.
KPT_DEVICE Words16 Load16(const void* p) {
  Words16 v;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(p)
               : "memory");
  return v;
}
// For what is read once: leaves the first-level cache to others.
KPT_DEVICE Words16 Load16Once(const void* p) {
  Words16 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(p)
               : "memory");
  return v;
}
KPT_DEVICE void Store16(void* p, const Words16& v) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(v.word[0]), "r"(v.word[1]),
               "r"(v.word[2]), "r"(v.word[3])
               : "memory");
}

// 8 bytes at an 8-byte aligned address.
KPT_DEVICE void Load8(const void* p, uint32_t* lo, uint32_t* hi) {
  asm volatile("ld.global.L1::no_allocate.v2.u32 {%0, %1}, [%2];"
               : "=r"(*lo), "=r"(*hi)
               : "l"(p)
               : "memory");
}
KPT_DEVICE void Store8(void* p, uint32_t lo, uint32_t hi) {
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(p), "r"(lo), "r"(hi) : "memory");
}

KPT_DEVICE float FloatOf(Float16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
KPT_DEVICE uint32_t Narrow2(float lo, float hi, BFloat16) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(hi), "f"(lo));
  return word;
}
KPT_DEVICE uint32_t Narrow2(float lo, float hi, Float16) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(hi), "f"(lo));
  return word;
}

KPT_DEVICE float SquareRoot(float x) { return sqrtf(x); }
KPT_DEVICE float RoundEven(float x) { return rintf(x); }
KPT_DEVICE float MaxOf(float a, float b) { return fmaxf(a, b); }
KPT_DEVICE float FastExp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
KPT_DEVICE float NaturalLog(float x) { return logf(x); }
KPT_DEVICE float FastReciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#if __CUDA_ARCH__ >= 890
// The instruction makes one positive NaN of them all; other codes have their number's sign already.
KPT_DEVICE uint32_t WithSigns(uint32_t word, float a, float b, float c, float d) {
  const uint32_t ab = __byte_perm(__float_as_uint(a), __float_as_uint(b), 0x0073);
  const uint32_t cd = __byte_perm(__float_as_uint(c), __float_as_uint(d), 0x0073);
  return word | (__byte_perm(ab, cd, 0x5410) & 0x80808080u);
}
#endif

// a in the lowest byte. The instruction exists from sm_89 on; FNUZ is AMD's and never has one here.
KPT_DEVICE uint32_t EncodeFp8x4(float a, float b, float c, float d, Fp8Format format) {
#if __CUDA_ARCH__ >= 890
  uint16_t lo, hi;
  if (format == Fp8Format::kE4M3FN) {
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(lo) : "f"(b), "f"(a));
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(hi) : "f"(d), "f"(c));
    return WithSigns(lo | (static_cast<uint32_t>(hi) << 16), a, b, c, d);
  }
  if (format == Fp8Format::kE5M2) {
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(lo) : "f"(b), "f"(a));
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(hi) : "f"(d), "f"(c));
    return WithSigns(lo | (static_cast<uint32_t>(hi) << 16), a, b, c, d);
  }
#endif
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

// By half precision: E5M2 is its upper byte, E4M3 lacks a bit of exponent.
KPT_DEVICE void DecodeFp8x4(uint32_t word, Fp8Format format, float* out) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t code = (word >> (8 * i)) & 0xffu;
    if (format == Fp8Format::kE5M2) {
      out[i] = FloatOf(Float16{static_cast<uint16_t>(code << 8)});
    } else if (format == Fp8Format::kE4M3FN) {
      const uint32_t half = ((code & 0x80u) << 8) | ((code & 0x7fu) << 7);
      const float x = FloatOf(Float16{static_cast<uint16_t>(half)}) * 256.0f;
      out[i] = (code & 0x7fu) == 0x7fu ? __uint_as_float(0x7fc00000u | ((code & 0x80u) << 24)) : x;
    } else {
      out[i] = E4M3FNUZ::Decode(code);
    }
  }
}

}  // namespace kpt::gpu

#endif  // KPT_KERNELS_BASE_GPU_VENDOR_CUDA_H_
