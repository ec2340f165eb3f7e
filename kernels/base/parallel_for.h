// Threads: borrowed from the OpenMP runtime that torch has already loaded. A second runtime would
// bring a second pool that fights torch's for the cores. There is no link-time dependency on
// OpenMP.
#ifndef KPT_KERNELS_BASE_PARALLEL_FOR_H_
#define KPT_KERNELS_BASE_PARALLEL_FOR_H_

#include <cstdint>

namespace kpt {

namespace internal {
// Runs body(arg, thread, threads) on at most num_threads threads and returns when all are done.
void RunParallel(int num_threads, void (*body)(void* arg, int thread, int threads), void* arg);
}  // namespace internal

// torch.get_num_threads() as the OpenMP runtime knows it for the calling thread; 1 where none is
// loaded, inside another parallel region, and in a process forked after import (the parent's pool
// threads do not exist there, and waiting for them would hang).
int MaxThreads();

// f(thread, threads) on each of up to num_threads threads. `threads` may come out lower than asked.
template <class F>
void Parallel(int num_threads, const F& f) {
  if (num_threads <= 1) {
    f(0, 1);
    return;
  }
  internal::RunParallel(
      num_threads,
      [](void* arg, int thread, int threads) { (*static_cast<const F*>(arg))(thread, threads); },
      const_cast<F*>(&f));
}

// f(begin, end) over an even contiguous split of [0, n); no thread gets less than `grain` items.
// The split depends on num_threads, so f must give each item a result independent of the split.
template <class F>
void ParallelFor(int num_threads, int64_t n, int64_t grain, const F& f) {
  if (n <= 0) return;
  if (grain < 1) grain = 1;
  const int64_t most = (n + grain - 1) / grain;
  const int threads = static_cast<int>(most < num_threads ? most : num_threads);
  Parallel(threads, [&](int t, int all) {
    const int64_t begin = n / all * t + (n % all < t ? n % all : t);
    const int64_t end = n / all * (t + 1) + (n % all < t + 1 ? n % all : t + 1);
    if (begin < end) f(begin, end);
  });
}

}  // namespace kpt

#endif  // KPT_KERNELS_BASE_PARALLEL_FOR_H_
