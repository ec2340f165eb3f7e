// Products of 16x8 tiles on tensor cores, from registers that ldmatrix fills out of shared memory
// that cp.async fills: what every NVIDIA GPU since sm_80 has. Emulated in tests.
//
// Fragments (PTX ISA, "Matrix fragments for mma.m16n8k16"), for lane l with g = l / 4, t = l % 4:
//   a[0..3]  rows g, g + 8, g, g + 8; two columns from 2t, 2t, 2t + 8, 2t + 8
//   b[0..1]  column g; two rows from 2t, 2t + 8
//   d[0..3]  row g: columns 2t, 2t + 1; row g + 8: the same
// Shared tiles are arrays of Words16: 8 numbers of 16 bits in a row.
#ifndef KPT_KERNELS_BASE_CUDA_MMA_H_
#define KPT_KERNELS_BASE_CUDA_MMA_H_

#include <cstdint>

#include "kernels/base/gpu/vendor.h"

namespace kpt::gpu {

#if defined(KPT_GPU_EMULATED)

// shared[index] = *global, or zeros where not `inside`; there after WaitCopies and a barrier.
KPT_DEVICE void CopyAsync16(SharedPtr<Words16> shared, int index, const void* global, bool inside) {
  shared.CopyAsync(index, inside ? Load16(global) : Words16{{0, 0, 0, 0}});
}
using emulator::CommitCopies;
template <int kNewest>
KPT_DEVICE void WaitCopies() {
  emulator::WaitCopies(kNewest);
}

// Four 8x8 matrices: lane 8 i + r names row r of matrix i; out[i] is this lane's fragment of it.
KPT_DEVICE void LoadMatrix4(SharedPtr<Words16> shared, int index, uint32_t (&out)[4]) {
  const Words16 row = shared[index];
  const int lane = ThreadIndex() % 32;
  const std::byte* const all = emulator::Exchange(&row, sizeof(row));
  for (int i = 0; i < 4; ++i) std::memcpy(&out[i], all + (8 * i + lane / 4) * 16 + lane % 4 * 4, 4);
}
// Each of the matrices transposed.
KPT_DEVICE void LoadMatrix4Transposed(SharedPtr<Words16> shared, int index, uint32_t (&out)[4]) {
  const Words16 row = shared[index];
  const int lane = ThreadIndex() % 32;
  const std::byte* const all = emulator::Exchange(&row, sizeof(row));
  for (int i = 0; i < 4; ++i) {
    uint16_t pair[2];
    for (int j = 0; j < 2; ++j) {
      std::memcpy(&pair[j], all + (8 * i + lane % 4 * 2 + j) * 16 + lane / 4 * 2, 2);
    }
    out[i] = pair[0] | (static_cast<uint32_t>(pair[1]) << 16);
  }
}

// Whether it holds for any lane of the warp.
KPT_DEVICE bool WarpAny(bool x) {
  const std::byte* const all = emulator::Exchange(&x, sizeof(x));
  for (int i = 0; i < 32; ++i) {
    if (all[i] != std::byte{0}) return true;
  }
  return false;
}

// d += a b, for bfloat16 or half.
template <class T>
KPT_DEVICE void MultiplyAdd(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, T) {
  struct Given {
    T a[4][2], b[2][2];
  } given;
  const uint32_t b[2] = {b0, b1};
  std::memcpy(given.a, a, 16);
  std::memcpy(given.b, b, 8);
  const int lane = ThreadIndex() % 32;
  const std::byte* const bytes = emulator::Exchange(&given, sizeof(given));
  Given all[32];
  std::memcpy(all, bytes, sizeof(all));
  for (int i = 0; i < 4; ++i) {
    const int column = lane % 4 * 2 + i % 2, half = i / 2;  // half: rows 8 to 15
    double sum = d[i];
    for (int k = 0; k < 16; ++k) {
      const Given& of_a = all[lane / 4 * 4 + k % 8 / 2];
      const Given& of_b = all[column * 4 + k % 8 / 2];
      sum += static_cast<double>(FloatOf(of_a.a[half + k / 8 * 2][k % 2])) *
             FloatOf(of_b.b[k / 8][k % 2]);
    }
    d[i] = static_cast<float>(sum);
  }
}

#else

KPT_DEVICE bool WarpAny(bool x) { return __any_sync(0xffffffffu, x) != 0; }

KPT_DEVICE uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

KPT_DEVICE void CopyAsync16(Words16* shared, int index, const void* global, bool inside) {
  // Where nothing is to be read the address is not looked at.
  const int bytes = inside ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(shared + index)),
               "l"(global), "r"(bytes)
               : "memory");
}
KPT_DEVICE void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kNewest>
KPT_DEVICE void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kNewest) : "memory");
}

KPT_DEVICE void LoadMatrix4(const Words16* shared, int index, uint32_t (&out)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(SharedAddress(shared + index))
               : "memory");
}
KPT_DEVICE void LoadMatrix4Transposed(const Words16* shared, int index, uint32_t (&out)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(SharedAddress(shared + index))
               : "memory");
}

KPT_DEVICE void MultiplyAdd(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                            BFloat16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
KPT_DEVICE void MultiplyAdd(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                            Float16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif

}  // namespace kpt::gpu

#endif  // KPT_KERNELS_BASE_CUDA_MMA_H_
