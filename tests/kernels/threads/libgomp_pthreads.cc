// The four entry points of an OpenMP runtime that ParallelFor uses, on threads made for each
// region.
#include <algorithm>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

thread_local int thread_num = 0;
thread_local int num_threads = 1;

}  // namespace

extern "C" {

__attribute__((visibility("default"))) int omp_get_thread_num() { return thread_num; }
__attribute__((visibility("default"))) int omp_get_num_threads() { return num_threads; }
__attribute__((visibility("default"))) int omp_get_max_threads() {
  const char* text = std::getenv("OMP_NUM_THREADS");
  return text != nullptr ? std::max(1, std::atoi(text)) : 4;
}
__attribute__((visibility("default"))) int omp_in_parallel() { return num_threads > 1 ? 1 : 0; }

__attribute__((visibility("default"))) void GOMP_parallel(void (*body)(void*), void* data,
                                                          unsigned count, unsigned) {
  const int all = static_cast<int>(count);
  std::vector<std::thread> others;
  for (int t = 1; t < all; ++t) {
    others.emplace_back([=] {
      thread_num = t;
      num_threads = all;
      body(data);
    });
  }
  num_threads = all;
  body(data);
  num_threads = 1;
  for (std::thread& other : others) other.join();
}

}  // extern "C"
