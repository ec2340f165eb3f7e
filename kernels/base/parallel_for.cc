#include "kernels/base/parallel_for.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>

#include <atomic>
#include <cstring>
#include <string>

namespace kpt {
namespace {

struct OpenMp {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;  // GOMP_parallel
  int (*thread_num)() = nullptr;
  int (*num_threads)() = nullptr;
  int (*max_threads)() = nullptr;
  int (*in_parallel)() = nullptr;
};

bool IsOpenMp(const char* path) {
  const char* slash = std::strrchr(path, '/');
  const char* file = slash != nullptr ? slash + 1 : path;
  return std::strncmp(file, "libgomp", 7) == 0 || std::strncmp(file, "libiomp5", 8) == 0 ||
         std::strncmp(file, "libomp", 6) == 0;
}

// libiomp5 and libomp export GOMP_parallel too, so one entry point serves all three.
OpenMp Find() {
  std::string path;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) -> int {
        if (info->dlpi_name == nullptr || !IsOpenMp(info->dlpi_name)) return 0;
        *static_cast<std::string*>(out) = info->dlpi_name;
        return 1;
      },
      &path);
  OpenMp omp;
  void* handle = path.empty() ? nullptr : dlopen(path.c_str(), RTLD_NOLOAD | RTLD_NOW);
  if (handle == nullptr) return omp;
  omp.thread_num = reinterpret_cast<int (*)()>(dlsym(handle, "omp_get_thread_num"));
  omp.num_threads = reinterpret_cast<int (*)()>(dlsym(handle, "omp_get_num_threads"));
  omp.max_threads = reinterpret_cast<int (*)()>(dlsym(handle, "omp_get_max_threads"));
  omp.in_parallel = reinterpret_cast<int (*)()>(dlsym(handle, "omp_in_parallel"));
  if (omp.thread_num && omp.num_threads && omp.max_threads && omp.in_parallel) {
    omp.parallel = reinterpret_cast<void (*)(void (*)(void*), void*, unsigned, unsigned)>(
        dlsym(handle, "GOMP_parallel"));
  }
  return omp;
}

std::atomic<bool> forked{false};

// A runtime found once stays; until then every call looks again, because torch (and with it the
// runtime) may be imported after us.
const OpenMp* Get() {
  static std::atomic<const OpenMp*> found{nullptr};
  if (const OpenMp* omp = found.load(std::memory_order_acquire)) return omp;
  const OpenMp omp = Find();
  if (omp.parallel == nullptr) return nullptr;
  static const OpenMp kept = [&] {
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });
    return omp;
  }();
  found.store(&kept, std::memory_order_release);
  return &kept;
}

}  // namespace

int MaxThreads() {
  const OpenMp* omp = Get();
  if (omp == nullptr || forked.load(std::memory_order_relaxed) || omp->in_parallel()) return 1;
  return omp->max_threads();
}

namespace internal {

void RunParallel(int num_threads, void (*body)(void*, int, int), void* arg) {
  const OpenMp* omp = Get();
  if (omp == nullptr || num_threads <= 1 || forked.load(std::memory_order_relaxed) ||
      omp->in_parallel()) {
    body(arg, 0, 1);
    return;
  }
  struct Region {
    const OpenMp* omp;
    void (*body)(void*, int, int);
    void* arg;
  } region{omp, body, arg};
  omp->parallel(
      [](void* p) {
        const Region& r = *static_cast<Region*>(p);
        r.body(r.arg, r.omp->thread_num(), r.omp->num_threads());
      },
      &region, static_cast<unsigned>(num_threads), 0);
}

}  // namespace internal
}  // namespace kpt
