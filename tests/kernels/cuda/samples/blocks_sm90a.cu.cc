// Every form of the building blocks of kernels/base/cuda once, so that the assembler has seen it.
#include "kernels/base/cuda/barrier.h"
#include "kernels/base/cuda/matrix_io.h"
#include "kernels/base/cuda/tma.h"
#include "kernels/base/cuda/wgmma.h"

namespace {

using namespace kpt::cuda;  // NOLINT: what is shown here

template <int N, MmaType kType>
__global__ void __launch_bounds__(128, 1) WgmmaKernel(uint64_t a, uint64_t b, float* out) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  const uint32_t registers[4] = {1, 2, 3, 4};
  float d[N / 2];
  FenceRegisters(d);
  WarpgroupFence();
  Wgmma<N, kType>::Multiply(d, a, b, 0);
  Wgmma<N, kType>::Multiply(d, registers, b, 1);
  if constexpr (kType == MmaType::kBFloat16 || kType == MmaType::kFloat16) {
    Wgmma<N, kType, Major::kMn, Major::kMn>::Multiply(d, a, b, 1);
    Wgmma<N, kType, Major::kK, Major::kMn>::Multiply(d, registers, b, 1);
  }
  WarpgroupCommit();
  WarpgroupWait<0>();
  FenceRegisters(d);
  for (int i = 0; i < N / 2; ++i) out[i * 128 + threadIdx.x] = d[i];
#endif
}

template <int... N>
void LaunchEach(uint64_t a, uint64_t b, float* out) {
  (WgmmaKernel<N, MmaType::kBFloat16><<<1, 128>>>(a, b, out), ...);
  (WgmmaKernel<N, MmaType::kFloat16><<<1, 128>>>(a, b, out), ...);
  (WgmmaKernel<N, MmaType::kE4M3><<<1, 128>>>(a, b, out), ...);
  (WgmmaKernel<N, MmaType::kE5M2><<<1, 128>>>(a, b, out), ...);
}

__global__ void __launch_bounds__(128, 1)
    CopyKernel(const __grid_constant__ CUtensorMap map, uint32_t* out) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  __shared__ alignas(1024) uint8_t tile[8192];
  __shared__ Barrier barrier;
  WaitForPrecedents();
  if (threadIdx.x == 0) {
    InitBarrier(&barrier, 1);
    FenceBarrierInit();
    PrefetchMap(&map);
  }
  ClusterArrive();
  ClusterWait();
  if (threadIdx.x == 0) {
    ArriveExpect(&barrier, 8192);
    Load(tile, &map, &barrier, 0, 0);
    Load(tile, &map, &barrier, 0, 0, 0);
    Load(tile, &map, &barrier, 0, 0, 0, 0);
    LoadMulticast(tile, &map, &barrier, 0, 0, 3);
    ArriveRemote(&barrier, ClusterRank() ^ 1);
  }
  Wait(&barrier, 0);
  uint32_t r[4], t[4];
  LoadMatrices(tile + threadIdx.x * 16, r);
  LoadMatricesTransposed(tile + threadIdx.x * 16, t);
  SyncThreads(1, 128);
  StoreMatrices(tile + threadIdx.x * 16, r);
  StoreMatricesTransposed(tile + threadIdx.x * 16, t);
  FenceAsyncProxy();
  SyncThreads(1, 128);
  if (threadIdx.x == 0) {
    Store(&map, tile, 0, 0);
    Store(&map, tile, 0, 0, 0, 0);
    StoreAdd(&map, tile, 0, 0);
    CommitStores();
    WaitStoresRead<0>();
    WaitStores<0>();
  }
  LaunchDependents();
  out[threadIdx.x] = PackBFloat16(1.0f, 2.0f) + PackFloat16(1.0f, 2.0f);
#endif
}

}  // namespace

void LaunchBlocks(uint64_t a, uint64_t b, float* out, const CUtensorMap& map, uint32_t* words) {
  LaunchEach<8, 16, 32, 64, 80, 96, 128, 160, 192, 256>(a, b, out);
  CopyKernel<<<1, 128>>>(map, words);
}
