// vendor.h for the emulator: the same names, on the CPU.
#ifndef KPT_KERNELS_BASE_GPU_EMULATOR_VENDOR_EMULATOR_H_
#define KPT_KERNELS_BASE_GPU_EMULATOR_VENDOR_EMULATOR_H_

#include <cmath>
#include <cstring>

#include "kernels/base/float_codec.h"
#include "kernels/base/gpu/emulator/emulator.h"

#define KPT_KERNEL(...) void
#define KPT_PARAMS(type) const type
#define KPT_DEVICE [[maybe_unused]] static inline
#define KPT_DEVICE_MEMBER inline
#define KPT_SHARED(type, name, count)                \
  static const char name##_declaration_ = 0;         \
  const ::kpt::gpu::emulator::SharedPtr<type> name = \
      ::kpt::gpu::emulator::Shared<type, (count)>(&name##_declaration_)
#define KPT_DYNAMIC_SHARED(type, name) \
  const ::kpt::gpu::emulator::SharedPtr<type> name = ::kpt::gpu::emulator::DynamicShared<type>()

namespace kpt::gpu {

inline constexpr int kWaveSize = emulator::kWave;

using emulator::BlockIndex;
using emulator::BlockThreads;
using emulator::GridBlocks;
using emulator::SharedPtr;
using emulator::SyncBlock;
using emulator::ThreadIndex;

KPT_DEVICE float ShuffleXor(float x, int mask) {
  return FloatFromBits(emulator::ShuffleXor(FloatBits(x), mask));
}

KPT_DEVICE void CheckAligned16(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0) {
    emulator::Fail("a 16-byte access at an address that is not a multiple of 16");
  }
}
KPT_DEVICE Words16 Load16(const void* p) {
  CheckAligned16(p);
  Words16 v;
  std::memcpy(&v, p, 16);
  return v;
}
KPT_DEVICE Words16 Load16Once(const void* p) { return Load16(p); }
KPT_DEVICE void Store16(void* p, const Words16& v) {
  CheckAligned16(p);
  std::memcpy(p, &v, 16);
}

KPT_DEVICE void CheckAligned8(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % 8 != 0) {
    emulator::Fail("an 8-byte access at an address that is not a multiple of 8");
  }
}
KPT_DEVICE void Load8(const void* p, uint32_t* lo, uint32_t* hi) {
  CheckAligned8(p);
  std::memcpy(lo, p, 4);
  std::memcpy(hi, static_cast<const char*>(p) + 4, 4);
}
KPT_DEVICE void Store8(void* p, uint32_t lo, uint32_t hi) {
  CheckAligned8(p);
  std::memcpy(p, &lo, 4);
  std::memcpy(static_cast<char*>(p) + 4, &hi, 4);
}

KPT_DEVICE float FloatOf(Float16 x) { return DecodeHalf(x.bits); }
KPT_DEVICE uint32_t Narrow2(float lo, float hi, BFloat16) {
  return EncodeBf16(lo) | (static_cast<uint32_t>(EncodeBf16(hi)) << 16);
}
KPT_DEVICE uint32_t Narrow2(float lo, float hi, Float16) {
  return EncodeHalf(lo) | (static_cast<uint32_t>(EncodeHalf(hi)) << 16);
}

KPT_DEVICE float SquareRoot(float x) { return std::sqrt(x); }
KPT_DEVICE float RoundEven(float x) { return std::nearbyint(x); }
KPT_DEVICE float MaxOf(float a, float b) { return std::fmax(a, b); }
KPT_DEVICE float FastExp2(float x) { return std::exp2(x); }
KPT_DEVICE float NaturalLog(float x) { return std::log(x); }
KPT_DEVICE float FastReciprocal(float x) { return 1.0f / x; }

KPT_DEVICE uint32_t EncodeFp8x4(float a, float b, float c, float d, Fp8Format format) {
  const float x[4] = {a, b, c, d};
  uint32_t word = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t code = format == Fp8Format::kE4M3FN ? E4M3FN::Encode(x[i], true)
                          : format == Fp8Format::kE5M2 ? E5M2::Encode(x[i], true)
                                                       : E4M3FNUZ::Encode(x[i], true);
    word |= code << (8 * i);
  }
  return word;
}

KPT_DEVICE void DecodeFp8x4(uint32_t word, Fp8Format format, float* out) {
  for (int i = 0; i < 4; ++i) {
    const uint32_t code = (word >> (8 * i)) & 0xffu;
    out[i] = format == Fp8Format::kE4M3FN ? E4M3FN::Decode(code)
             : format == Fp8Format::kE5M2 ? E5M2::Decode(code)
                                          : E4M3FNUZ::Decode(code);
  }
}

}  // namespace kpt::gpu

#endif  // KPT_KERNELS_BASE_GPU_EMULATOR_VENDOR_EMULATOR_H_
