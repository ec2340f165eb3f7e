// Barriers in shared memory (mbarrier), the fences around asynchronous copies, and clusters. sm_90
// and later. PTX ISA, "Parallel Synchronization and Communication Instructions".
#ifndef KPT_KERNELS_BASE_CUDA_BARRIER_H_
#define KPT_KERNELS_BASE_CUDA_BARRIER_H_

#include <cstdint>

#define KPT_CUDA_DEVICE static __device__ __forceinline__

namespace kpt::cuda {

using Barrier = uint64_t;  // in shared memory

// The address that PTX takes for a pointer into shared memory.
KPT_CUDA_DEVICE uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// One thread initialises; then FenceBarrierInit, then a barrier of the block (or cluster).
KPT_CUDA_DEVICE void InitBarrier(Barrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)),
               "r"(arrivals)
               : "memory");
}
KPT_CUDA_DEVICE void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

KPT_CUDA_DEVICE void Arrive(Barrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}
// Arrives, and has the phase wait for `bytes` of asynchronous copies too.
KPT_CUDA_DEVICE void ArriveExpect(Barrier* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)),
      "r"(bytes)
      : "memory");
}
// Arrives at the barrier at the same place of another block of the cluster.
KPT_CUDA_DEVICE void ArriveRemote(Barrier* barrier, int rank) {
  asm volatile(
      "{\n.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(SharedAddress(barrier)),
      "r"(rank)
      : "memory");
}

// Waits until the phase of this parity is over. A barrier starts in phase 0, so waiting for parity
// 1 passes at once on a new one.
KPT_CUDA_DEVICE void Wait(Barrier* barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "WAIT:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra DONE;\n"
      "bra WAIT;\n"
      "DONE:\n}" ::"r"(SharedAddress(barrier)),
      "r"(parity)
      : "memory");
}

// What this thread wrote to shared memory becomes visible to asynchronous copies and to wgmma.
KPT_CUDA_DEVICE void FenceAsyncProxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// A barrier of some of the block's warps: `threads` of them arrive at barrier `id` (1 to 15).
KPT_CUDA_DEVICE void SyncThreads(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

KPT_CUDA_DEVICE int ClusterRank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
KPT_CUDA_DEVICE void ClusterArrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
KPT_CUDA_DEVICE void ClusterWait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Programmatic dependent launch: the next kernel of the stream may start its prologue; this one
// waits until what precedes it has written its results.
KPT_CUDA_DEVICE void LaunchDependents() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
KPT_CUDA_DEVICE void WaitForPrecedents() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

}  // namespace kpt::cuda

#endif  // KPT_KERNELS_BASE_CUDA_BARRIER_H_
