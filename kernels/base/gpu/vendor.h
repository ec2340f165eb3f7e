// The names under which kernels in gpu/ folders know a GPU: one source for CUDA, HIP and, in tests,
// for an emulator that runs the threads of a block on the CPU. Each target defines, in namespace
// kpt::gpu:
//
//   KPT_KERNEL(max_threads, min_blocks)
//       before a kernel, `KPT_KERNEL(256) Name(KPT_PARAMS(P) p) {...}`. The second argument may be
//       left out: blocks that a multiprocessor must be able to hold.
//   KPT_PARAMS(type)
//       the one parameter of a kernel, a plain struct of at most 4 KiB
//   KPT_DEVICE, KPT_DEVICE_MEMBER
//       before a function that kernels call, free or in a class
//   KPT_SHARED(type, name, n)
//       inside a kernel: n elements that the threads of a block share
//   KPT_DYNAMIC_SHARED(type, name)
//       inside a kernel: what the launch asked for, 128-byte aligned (not for HIP yet)
//   SharedPtr<T>
//       how such an array is handed to a function
//   kWaveSize
//       threads that run in lockstep and shuffle: 32 or 64. In device code only; host code asks the
//       device (GpuDevice::warp_size).
//   ThreadIndex(), BlockThreads(), BlockIndex(), GridBlocks()
//       launches are one-dimensional
//   SyncBlock()
//       every thread of the block arrives, and sees all that was written
//   ShuffleXor(x, mask)
//       the value of lane (lane ^ mask); every lane of the wave calls it
//   Load16, Load16Once, Store16
//       16 bytes at a 16-byte aligned address; Once leaves the first-level cache to others
//   FloatOf(Float16), Narrow2(lo, hi, T())
//       exact; two floats rounded to a 16-bit type, in one word
//   EncodeFp8x4(a, b, c, d, format)
//       four floats to fp8 in one word, saturating; NaN keeps its sign
//   FastExp2, FastReciprocal, NaturalLog
//       a few units in the last place; subnormals may be flushed
//   SquareRoot, RoundEven, MaxOf
//       as IEEE has it; RoundEven to the nearest integer; MaxOf may drop a NaN
//
// Kernels include nothing of CUDA or HIP themselves.
#ifndef KPT_KERNELS_BASE_GPU_VENDOR_H_
#define KPT_KERNELS_BASE_GPU_VENDOR_H_

#include <cstdint>

#include "kernels/base/host_device.h"

namespace kpt::gpu {

// Storage types. Arithmetic is done in float.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

struct alignas(16) Words16 {
  uint32_t word[4];
};

enum class Fp8Format { kE4M3FN, kE5M2, kE4M3FNUZ };

inline constexpr int kMaxBlockThreads = 1024;

}  // namespace kpt::gpu

#if defined(KPT_GPU_EMULATED)
#include "kernels/base/gpu/emulator/vendor_emulator.h"
#elif defined(__CUDACC__)
#include "kernels/base/gpu/vendor_cuda.h"
#elif defined(__HIP__)
#include "kernels/base/gpu/vendor_hip.h"
#else
#error "vendor.h is for kernels: compile with nvcc, for HIP, or with KPT_GPU_EMULATED"
#endif

#endif  // KPT_KERNELS_BASE_GPU_VENDOR_H_
