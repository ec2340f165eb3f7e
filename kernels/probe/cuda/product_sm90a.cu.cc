// A bfloat16 product on Hopper. One warpgroup copies by TMA into a ring of four stages and keeps
// few registers; two multiply, each 64 rows of a 128x256 tile, and write it through the ring's
// memory.
//
// Predicted at 8192x8192x8192 on an H200 (132 multiprocessors, 989 TFLOP/s at full clock): a stage
// of 48 KiB feeds 4.2 Mflop, 85 a byte, so 600 TFLOP/s ask 7 TB/s of the second-level cache, about
// what it gives; blocks of a cluster that share their copies would halve one of the two. Prologue
// and epilogue are not hidden: 5 of 133 steps. Together 550 to 620 TFLOP/s. Not yet run on a GPU.
#include "kernels/base/cuda/barrier.h"
#include "kernels/base/cuda/layout.h"
#include "kernels/base/cuda/matrix_io.h"
#include "kernels/base/cuda/runtime.h"
#include "kernels/base/cuda/tensor_map.h"
#include "kernels/base/cuda/tma.h"
#include "kernels/base/cuda/wgmma.h"
#include "kernels/probe/cuda/product.h"

namespace kpt::cuda {
namespace {

constexpr int kRows = 128, kCols = 256, kStep = 64;  // of the tile; kStep elements are 128 bytes
constexpr int kStages = 4;
constexpr int kConsumers = 2;
constexpr int kThreads = 128 * (1 + kConsumers);
constexpr int kGroup = 8;  // tiles of rows that share columns in the second-level cache

constexpr int kBytesA = kRows * kStep * 2;
constexpr int kBytesB = kCols * kStep * 2;
constexpr int kStageBytes = kBytesA + kBytesB;
constexpr int kPanelCols = 64;  // of the output, one swizzle span
constexpr int kPanelBytes = kRows * kPanelCols * 2;
static_assert(kCols / kPanelCols * kPanelBytes <= kStages * kStageBytes, "the output fits");

// Alignment of swizzled tiles is 1024, which dynamic shared memory does not promise.
constexpr int kSharedBytes = kStages * kStageBytes + 1024;

struct Shape {
  int tiles_m, tiles_n, steps;
};

// Walks kGroup rows of tiles down before the next column.
__device__ __forceinline__ void TileOf(const Shape& shape, int index, int* m, int* n) {
  const int in_group = kGroup * shape.tiles_n;
  const int first = index / in_group * kGroup;
  const int rows = min(kGroup, shape.tiles_m - first);
  *m = first + index % in_group % rows;
  *n = index % in_group / rows;
}

__global__ void __launch_bounds__(kThreads, 1)
    ProductSm90aKernel(const __grid_constant__ CUtensorMap map_a,
                       const __grid_constant__ CUtensorMap map_b,
                       const __grid_constant__ CUtensorMap map_out, const Shape shape) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint8_t raw[];
  uint8_t* const tiles = raw + (-SharedAddress(raw) & 1023);
  __shared__ Barrier full[kStages], empty[kStages];
  int tile_m, tile_n;
  TileOf(shape, static_cast<int>(blockIdx.x), &tile_m, &tile_n);
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  const int thread = static_cast<int>(threadIdx.x) % 128;

  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      InitBarrier(&full[s], 1);
      InitBarrier(&empty[s], kConsumers);
    }
    FenceBarrierInit();
    PrefetchMap(&map_a);
    PrefetchMap(&map_b);
    PrefetchMap(&map_out);
  }
  __syncthreads();

  Ring<kStages> ring;
  if (warpgroup == 0) {
    KeepRegisters<40>();
    if (thread != 0) return;
    for (int step = 0; step < shape.steps; ++step, ring.Next()) {
      Wait(&empty[ring.stage], ring.phase ^ 1);
      uint8_t* const stage = tiles + ring.stage * kStageBytes;
      ArriveExpect(&full[ring.stage], kStageBytes);
      Load(stage, &map_a, &full[ring.stage], step * kStep, tile_m * kRows);
      Load(stage + kBytesA, &map_b, &full[ring.stage], step * kStep, tile_n * kCols);
    }
    return;
  }

  TakeRegisters<232>();
  const int consumer = warpgroup - 1;
  float d[kCols / 2];
  int previous = -1;
  for (int step = 0; step < shape.steps; ++step, ring.Next()) {
    Wait(&full[ring.stage], ring.phase);
    const uint32_t stage = SharedAddress(tiles + ring.stage * kStageBytes);
    const uint64_t a = KMajorDescriptor(stage + consumer * (kBytesA / kConsumers), Swizzle::k128);
    const uint64_t b = KMajorDescriptor(stage + kBytesA, Swizzle::k128);
    FenceRegisters(d);
    WarpgroupFence();
#pragma unroll
    for (int k = 0; k < kStep * 2; k += 32) {
      Wgmma<kCols, MmaType::kBFloat16>::Multiply(d, Advance(a, k), Advance(b, k),
                                                 step > 0 || k > 0);
    }
    WarpgroupCommit();
    // The products of the step before are done: its stage may be filled again.
    WarpgroupWait<1>();
    FenceRegisters(d);
    if (previous >= 0 && thread == 0) Arrive(&empty[previous]);
    previous = ring.stage;
  }
  WarpgroupWait<0>();
  FenceRegisters(d);

  // Both have read their last stage, and the producer has nothing more to bring: the ring's memory
  // takes the output, in panels of one span.
  SyncThreads(1, 128 * kConsumers);
#pragma unroll
  for (int part = 0; part < kCols / 16; ++part) {
    uint32_t words[4];
#pragma unroll
    for (int w = 0; w < 4; ++w)
      words[w] = PackBFloat16(d[8 * part + 2 * w], d[8 * part + 2 * w + 1]);
    const int row = consumer * 64 + StoreMatrixRow(thread);
    const int col = StoreMatrixColumn(thread, part);
    const uint32_t offset = static_cast<uint32_t>(row * kPanelCols + col % kPanelCols) * 2;
    StoreMatrices(tiles + col / kPanelCols * kPanelBytes + SwizzledOffset(Swizzle::k128, offset),
                  words);
  }
  FenceAsyncProxy();
  SyncThreads(1, 128 * kConsumers);
  if (threadIdx.x == 128) {
    for (int p = 0; p < kCols / kPanelCols; ++p) {
      Store(&map_out, tiles + p * kPanelBytes, tile_n * kCols + p * kPanelCols, tile_m * kRows);
    }
    CommitStores();
    WaitStores<0>();
  }
#endif
}

Status MapOf(const char* arg, const TensorView& view, int box_rows, CUtensorMap* map) {
  TensorMapSpec spec;
  spec.data = view.data;
  spec.dtype = view.dtype;
  spec.size[0] = view.dim(1);
  spec.size[1] = view.dim(0);
  spec.stride[0] = 1;
  spec.stride[1] = view.stride(0);
  spec.box[0] = kStep;
  spec.box[1] = box_rows;
  return MakeTensorMap("probe_product", arg, spec, map);
}

}  // namespace

Status ProductSm90a(const LaunchContext& ctx, const ProbeProductArgs& args) {
  static_assert(kPanelCols == kStep, "one box width serves all three");
  CUtensorMap map_a, map_b, map_out;
  KPT_RETURN_IF_ERROR(MapOf("a", args.a, kRows, &map_a));
  KPT_RETURN_IF_ERROR(MapOf("b", args.b, kCols, &map_b));
  KPT_RETURN_IF_ERROR(MapOf("out", args.out, kRows, &map_out));
  const auto pieces = [](int64_t size, int piece) {
    return static_cast<int>((size - 1) / piece + 1);
  };
  const Shape shape = {pieces(args.a.dim(0), kRows), pieces(args.b.dim(0), kCols),
                       pieces(args.a.dim(1), kStep)};
  KPT_RETURN_IF_ERROR(AllowSharedMemory("probe_product", "ProductSm90aKernel",
                                        reinterpret_cast<const void*>(ProductSm90aKernel),
                                        kSharedBytes));
  ProductSm90aKernel<<<shape.tiles_m * shape.tiles_n, kThreads, kSharedBytes, StreamOf(ctx)>>>(
      map_a, map_b, map_out, shape);
  return LaunchStatus("probe_product", "ProductSm90aKernel");
}

}  // namespace kpt::cuda
