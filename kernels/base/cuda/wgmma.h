// Matrix products of a warpgroup (128 threads) on Hopper's tensor cores: wgmma,
// D[64, N] += A[64, K] B[K, N], with float accumulators in registers. sm_90a alone. PTX ISA,
// "Asynchronous Warpgroup Level Matrix Instructions".
//
// B comes from shared memory, A from there or from registers; in shared memory both are found by
// descriptor (layout.h). K is 32 bytes: 16 elements of bfloat16 and float16, 32 of fp8. The order:
//
//   FenceRegisters(d);  WarpgroupFence();  Multiply...;  WarpgroupCommit();
//   ...  WarpgroupWait<0>();  FenceRegisters(d);
//
// In between, the accumulators and A's registers must not be touched.
#ifndef KPT_KERNELS_BASE_CUDA_WGMMA_H_
#define KPT_KERNELS_BASE_CUDA_WGMMA_H_

#include <cstdint>

#include "kernels/base/cuda/barrier.h"

namespace kpt::cuda {

enum class MmaType { kBFloat16, kFloat16, kE4M3, kE5M2 };  // of A and of B

// Which way an operand of 16-bit elements lies in shared memory; fp8 is always K-major.
enum class Major : int { kK = 0, kMn = 1 };

KPT_CUDA_DEVICE void WarpgroupFence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
KPT_CUDA_DEVICE void WarpgroupCommit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most kPending groups are under way.
template <int kPending>
KPT_CUDA_DEVICE void WarpgroupWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// No use of these registers moves to the other side: the compiler does not see that an asynchronous
// product is still writing them.
template <int kCount>
KPT_CUDA_DEVICE void FenceRegisters(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// Registers a thread, a multiple of 8: all warps of a warpgroup give some back, or wait for some.
// The kernel needs launch bounds with a minimum of blocks, else the compiler ignores them.
template <int kRegisters>
KPT_CUDA_DEVICE void KeepRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
KPT_CUDA_DEVICE void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Accumulators: N / 2 a thread; AccumulatorRow and AccumulatorColumn say which. With `accumulate` 0
// they are set instead of added to.
template <int N, MmaType kType, Major kMajorA = Major::kK, Major kMajorB = Major::kK>
struct Wgmma;

// clang-format off
#define KPT_R0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define KPT_R8 "%8, %9, %10, %11, %12, %13, %14, %15"
#define KPT_R16 "%16, %17, %18, %19, %20, %21, %22, %23"
#define KPT_R24 "%24, %25, %26, %27, %28, %29, %30, %31"
#define KPT_R32 "%32, %33, %34, %35, %36, %37, %38, %39"
#define KPT_R40 "%40, %41, %42, %43, %44, %45, %46, %47"
#define KPT_R48 "%48, %49, %50, %51, %52, %53, %54, %55"
#define KPT_R56 "%56, %57, %58, %59, %60, %61, %62, %63"
#define KPT_R64 "%64, %65, %66, %67, %68, %69, %70, %71"
#define KPT_R72 "%72, %73, %74, %75, %76, %77, %78, %79"
#define KPT_R80 "%80, %81, %82, %83, %84, %85, %86, %87"
#define KPT_R88 "%88, %89, %90, %91, %92, %93, %94, %95"
#define KPT_R96 "%96, %97, %98, %99, %100, %101, %102, %103"
#define KPT_R104 "%104, %105, %106, %107, %108, %109, %110, %111"
#define KPT_R112 "%112, %113, %114, %115, %116, %117, %118, %119"
#define KPT_R120 "%120, %121, %122, %123, %124, %125, %126, %127"

#define KPT_D8(b) "+f"(d[b]), "+f"(d[b + 1]), "+f"(d[b + 2]), "+f"(d[b + 3]), \
                  "+f"(d[b + 4]), "+f"(d[b + 5]), "+f"(d[b + 6]), "+f"(d[b + 7])

#define KPT_REGS_8 "%0, %1, %2, %3"
#define KPT_OUTS_8 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define KPT_REGS_16 KPT_R0
#define KPT_OUTS_16 KPT_D8(0)
#define KPT_REGS_32 KPT_R0 ", " KPT_R8
#define KPT_OUTS_32 KPT_D8(0), KPT_D8(8)
#define KPT_REGS_64 KPT_R0 ", " KPT_R8 ", " KPT_R16 ", " KPT_R24
#define KPT_OUTS_64 KPT_D8(0), KPT_D8(8), KPT_D8(16), KPT_D8(24)
#define KPT_REGS_80 KPT_R0 ", " KPT_R8 ", " KPT_R16 ", " KPT_R24 ", " \
                      KPT_R32
#define KPT_OUTS_80 KPT_D8(0), KPT_D8(8), KPT_D8(16), KPT_D8(24), \
                     KPT_D8(32)
#define KPT_REGS_96 KPT_R0 ", " KPT_R8 ", " KPT_R16 ", " KPT_R24 ", " \
                      KPT_R32 ", " KPT_R40
#define KPT_OUTS_96 KPT_D8(0), KPT_D8(8), KPT_D8(16), KPT_D8(24), \
                     KPT_D8(32), KPT_D8(40)
#define KPT_REGS_128 KPT_R0 ", " KPT_R8 ", " KPT_R16 ", " KPT_R24 ", " \
                      KPT_R32 ", " KPT_R40 ", " KPT_R48 ", " KPT_R56
#define KPT_OUTS_128 KPT_D8(0), KPT_D8(8), KPT_D8(16), KPT_D8(24), \
                     KPT_D8(32), KPT_D8(40), KPT_D8(48), KPT_D8(56)
#define KPT_REGS_160 KPT_R0 ", " KPT_R8 ", " KPT_R16 ", " KPT_R24 ", " \
                      KPT_R32 ", " KPT_R40 ", " KPT_R48 ", " KPT_R56 ", " \
                      KPT_R64 ", " KPT_R72
#define KPT_OUTS_160 KPT_D8(0), KPT_D8(8), KPT_D8(16), KPT_D8(24), \
                     KPT_D8(32), KPT_D8(40), KPT_D8(48), KPT_D8(56), \
                     KPT_D8(64), KPT_D8(72)
#define KPT_REGS_192 KPT_R0 ", " KPT_R8 ", " KPT_R16 ", " KPT_R24 ", " \
                      KPT_R32 ", " KPT_R40 ", " KPT_R48 ", " KPT_R56 ", " \
                      KPT_R64 ", " KPT_R72 ", " KPT_R80 ", " KPT_R88
#define KPT_OUTS_192 KPT_D8(0), KPT_D8(8), KPT_D8(16), KPT_D8(24), \
                     KPT_D8(32), KPT_D8(40), KPT_D8(48), KPT_D8(56), \
                     KPT_D8(64), KPT_D8(72), KPT_D8(80), KPT_D8(88)
#define KPT_REGS_256 KPT_R0 ", " KPT_R8 ", " KPT_R16 ", " KPT_R24 ", " \
                      KPT_R32 ", " KPT_R40 ", " KPT_R48 ", " KPT_R56 ", " \
                      KPT_R64 ", " KPT_R72 ", " KPT_R80 ", " KPT_R88 ", " \
                      KPT_R96 ", " KPT_R104 ", " KPT_R112 ", " KPT_R120
#define KPT_OUTS_256 KPT_D8(0), KPT_D8(8), KPT_D8(16), KPT_D8(24), \
                     KPT_D8(32), KPT_D8(40), KPT_D8(48), KPT_D8(56), \
                     KPT_D8(64), KPT_D8(72), KPT_D8(80), KPT_D8(88), \
                     KPT_D8(96), KPT_D8(104), KPT_D8(112), KPT_D8(120)

// One instruction; operands after the registers are numbered from the first of `a` on.
#define KPT_WGMMA_16(n, type, a, b, p, ta, tb)                                                  \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p ", 0;\n"                                   \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type " {" KPT_REGS_##n "}, "    \
               a ", " b ", p, 1, 1, " ta ", " tb ";\n}"                                          \
               : KPT_OUTS_##n : "l"(descriptor_a), "l"(descriptor_b), "r"(accumulate),           \
                 "n"(static_cast<int>(kMajorA)), "n"(static_cast<int>(kMajorB)))
#define KPT_WGMMA_16R(n, type, a0, a1, a2, a3, b, p, tb)                                        \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p ", 0;\n"                                   \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type " {" KPT_REGS_##n "}, {"   \
               a0 ", " a1 ", " a2 ", " a3 "}, " b ", p, 1, 1, " tb ";\n}"                        \
               : KPT_OUTS_##n : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor_b),   \
                 "r"(accumulate), "n"(static_cast<int>(kMajorB)))
#define KPT_WGMMA_8(n, type, a, b, p)                                                           \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p ", 0;\n"                                   \
               "wgmma.mma_async.sync.aligned.m64n" #n "k32.f32." type " {" KPT_REGS_##n "}, "    \
               a ", " b ", p, 1, 1;\n}"                                                          \
               : KPT_OUTS_##n : "l"(descriptor_a), "l"(descriptor_b), "r"(accumulate))
#define KPT_WGMMA_8R(n, type, a0, a1, a2, a3, b, p)                                             \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p ", 0;\n"                                   \
               "wgmma.mma_async.sync.aligned.m64n" #n "k32.f32." type " {" KPT_REGS_##n "}, {"   \
               a0 ", " a1 ", " a2 ", " a3 "}, " b ", p, 1, 1;\n}"                                \
               : KPT_OUTS_##n : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor_b),   \
                 "r"(accumulate))

// o0 to o6: the numbers that follow those of the N / 2 registers.
#define KPT_WGMMA(n, o0, o1, o2, o3, o4, o5, o6)                                                \
  template <MmaType kType, Major kMajorA, Major kMajorB>                                        \
  struct Wgmma<n, kType, kMajorA, kMajorB> {                                                    \
    static_assert(kType == MmaType::kBFloat16 || kType == MmaType::kFloat16 ||                  \
                      (kMajorA == Major::kK && kMajorB == Major::kK), "fp8 is K-major");        \
    /* A and B in shared memory. */                                                             \
    KPT_CUDA_DEVICE void Multiply(float (&d)[n / 2], uint64_t descriptor_a,                     \
                                  uint64_t descriptor_b, int accumulate) {                      \
      if constexpr (kType == MmaType::kBFloat16) {                                              \
        KPT_WGMMA_16(n, "bf16.bf16", o0, o1, o2, o3, o4);                                       \
      } else if constexpr (kType == MmaType::kFloat16) {                                        \
        KPT_WGMMA_16(n, "f16.f16", o0, o1, o2, o3, o4);                                         \
      } else if constexpr (kType == MmaType::kE4M3) {                                           \
        KPT_WGMMA_8(n, "e4m3.e4m3", o0, o1, o2);                                                \
      } else {                                                                                  \
        KPT_WGMMA_8(n, "e5m2.e5m2", o0, o1, o2);                                                \
      }                                                                                         \
    }                                                                                           \
    /* A in registers, four words a thread: as accumulators lie, narrowed and packed. */        \
    KPT_CUDA_DEVICE void Multiply(float (&d)[n / 2], const uint32_t (&a)[4],                    \
                                  uint64_t descriptor_b, int accumulate) {                      \
      if constexpr (kType == MmaType::kBFloat16) {                                              \
        KPT_WGMMA_16R(n, "bf16.bf16", o0, o1, o2, o3, o4, o5, o6);                              \
      } else if constexpr (kType == MmaType::kFloat16) {                                        \
        KPT_WGMMA_16R(n, "f16.f16", o0, o1, o2, o3, o4, o5, o6);                                \
      } else if constexpr (kType == MmaType::kE4M3) {                                           \
        KPT_WGMMA_8R(n, "e4m3.e4m3", o0, o1, o2, o3, o4, o5);                                   \
      } else {                                                                                  \
        KPT_WGMMA_8R(n, "e5m2.e5m2", o0, o1, o2, o3, o4, o5);                                   \
      }                                                                                         \
    }                                                                                           \
  };

KPT_WGMMA(8, "%4", "%5", "%6", "%7", "%8", "%9", "%10")
KPT_WGMMA(16, "%8", "%9", "%10", "%11", "%12", "%13", "%14")
KPT_WGMMA(32, "%16", "%17", "%18", "%19", "%20", "%21", "%22")
KPT_WGMMA(64, "%32", "%33", "%34", "%35", "%36", "%37", "%38")
KPT_WGMMA(80, "%40", "%41", "%42", "%43", "%44", "%45", "%46")
KPT_WGMMA(96, "%48", "%49", "%50", "%51", "%52", "%53", "%54")
KPT_WGMMA(128, "%64", "%65", "%66", "%67", "%68", "%69", "%70")
KPT_WGMMA(160, "%80", "%81", "%82", "%83", "%84", "%85", "%86")
KPT_WGMMA(192, "%96", "%97", "%98", "%99", "%100", "%101", "%102")
KPT_WGMMA(256, "%128", "%129", "%130", "%131", "%132", "%133", "%134")

#undef KPT_WGMMA
#undef KPT_WGMMA_16
#undef KPT_WGMMA_16R
#undef KPT_WGMMA_8
#undef KPT_WGMMA_8R
#undef KPT_D8
// clang-format on

}  // namespace kpt::cuda

#endif  // KPT_KERNELS_BASE_CUDA_WGMMA_H_
