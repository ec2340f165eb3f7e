// Where things lie for the tensor cores of Hopper: swizzles of shared memory, matrix descriptors,
// accumulators in registers. Plain arithmetic, the same on the host, where it is tested.
//
// Terms: a tile is stored "K-major" when the elements of one row of A (or one column of B) along K
// are contiguous, as in a row-major A [M, K] and a weight B [N, K]. TMA writes such a tile as rows
// of one swizzle span (128, 64 or 32 bytes); eight rows are a core group. PTX ISA, "Asynchronous
// Warpgroup Level Matrix Shared Memory Layout" and "Tensor swizzling modes".
#ifndef KPT_KERNELS_BASE_CUDA_LAYOUT_H_
#define KPT_KERNELS_BASE_CUDA_LAYOUT_H_

#include <cstdint>

#if defined(__CUDACC__)
#define KPT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define KPT_HOST_DEVICE inline
#endif

namespace kpt::cuda {

// The values are those of the descriptor's field.
enum class Swizzle : int { kNone = 0, k128 = 1, k64 = 2, k32 = 3 };

// Bytes of a row within which 16-byte pieces change places.
KPT_HOST_DEVICE constexpr int SpanBytes(Swizzle swizzle) {
  return swizzle == Swizzle::k128  ? 128
         : swizzle == Swizzle::k64 ? 64
         : swizzle == Swizzle::k32 ? 32
                                   : 16;
}

// Where the byte at `offset` of an unswizzled tile lies: the bits that number a 16-byte piece are
// xored with those that number a 128-byte line. The tile must begin at a multiple of 8 spans (1024,
// 512 or 256 bytes). Its own inverse.
KPT_HOST_DEVICE constexpr uint32_t SwizzledOffset(Swizzle swizzle, uint32_t offset) {
  const uint32_t pieces = static_cast<uint32_t>(SpanBytes(swizzle)) / 16 - 1;  // 7, 3, 1 or 0
  return offset ^ (((offset >> 7) & pieces) << 4);
}

// The 64-bit descriptor of an operand in shared memory. `address` is that of the shared state space
// (or the low bits of one). K-major: `stride_bytes` leads from a group of eight rows to the next;
// `leading_bytes` is unused with a swizzle. M-major (transposed): `leading_bytes` leads from one
// span to the next along M or N, `stride_bytes` from eight steps of K to the next.
KPT_HOST_DEVICE constexpr uint64_t MatrixDescriptor(uint32_t address, Swizzle swizzle,
                                                    int leading_bytes, int stride_bytes) {
  return static_cast<uint64_t>((address & 0x3FFFF) >> 4) |
         static_cast<uint64_t>((leading_bytes & 0x3FFFF) >> 4) << 16 |
         static_cast<uint64_t>((stride_bytes & 0x3FFFF) >> 4) << 32 |
         static_cast<uint64_t>(swizzle) << 62;
}

// A K-major tile whose rows are one span wide.
KPT_HOST_DEVICE constexpr uint64_t KMajorDescriptor(uint32_t address, Swizzle swizzle) {
  return MatrixDescriptor(address, swizzle, 16, 8 * SpanBytes(swizzle));
}

// The descriptor of what lies `bytes` further: of the next step along K, for example.
KPT_HOST_DEVICE constexpr uint64_t Advance(uint64_t descriptor, int bytes) {
  return descriptor + static_cast<uint64_t>(bytes >> 4);
}

// Element i of a thread's accumulators of a 64xN product lies at this row and column; `thread` is
// that within the warpgroup. Pairs of columns are neighbours in registers.
KPT_HOST_DEVICE constexpr int AccumulatorRow(int thread, int i) {
  return thread / 32 * 16 + thread % 32 / 4 + (i & 2) * 4;
}
KPT_HOST_DEVICE constexpr int AccumulatorColumn(int thread, int i) {
  return i / 4 * 8 + thread % 4 * 2 + (i & 1);
}

// stmatrix.x4 writes four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of
// matrix l / 8. With the registers of eight accumulators [8 * part, 8 * part + 8) packed in pairs,
// the matrices are the upper and lower eight rows of columns 16 * part, then those 8 further right.
KPT_HOST_DEVICE constexpr int StoreMatrixRow(int thread) { return thread / 32 * 16 + thread % 16; }
KPT_HOST_DEVICE constexpr int StoreMatrixColumn(int thread, int part) {
  return part * 16 + thread % 32 / 16 * 8;
}

// A ring of `kStages` buffers, each with a barrier whose phase flips every time round.
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t phase = 0;

  KPT_HOST_DEVICE void Next() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

}  // namespace kpt::cuda

#endif  // KPT_KERNELS_BASE_CUDA_LAYOUT_H_
