// 8x8 matrices of 16-bit elements between shared memory and the registers of a warp, and the
// narrowing of accumulators on their way. ldmatrix from sm_75 on, stmatrix from sm_90 on.
#ifndef KPT_KERNELS_BASE_CUDA_MATRIX_IO_H_
#define KPT_KERNELS_BASE_CUDA_MATRIX_IO_H_

#include <cstdint>

#include "kernels/base/cuda/barrier.h"

namespace kpt::cuda {

// Two floats to a word of two 16-bit elements, the first in the low half.
KPT_CUDA_DEVICE uint32_t PackBFloat16(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
KPT_CUDA_DEVICE uint32_t PackFloat16(float low, float high) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

// Four matrices; lane l gives the address of row l % 8 of matrix l / 8, 16-byte aligned.
KPT_CUDA_DEVICE void LoadMatrices(const void* shared, uint32_t (&r)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(shared))
               : "memory");
}
KPT_CUDA_DEVICE void LoadMatricesTransposed(const void* shared, uint32_t (&r)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(shared))
               : "memory");
}
KPT_CUDA_DEVICE void StoreMatrices(void* shared, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   SharedAddress(shared)),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}
KPT_CUDA_DEVICE void StoreMatricesTransposed(void* shared, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   SharedAddress(shared)),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

}  // namespace kpt::cuda

#endif  // KPT_KERNELS_BASE_CUDA_MATRIX_IO_H_
