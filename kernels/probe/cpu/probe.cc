#include "kernels/probe/probe.h"

#include <chrono>
#include <cstring>
#include <string>

#include "kernels/base/parallel_for.h"
#include "kernels/probe/cpu/probe_loops.h"

// Keeps a vector in a register and hides its value from the optimizer.
#if defined(__x86_64__)
#define KPT_PROBE_KEEP(v) __asm__ volatile("" : "+x"(v))
#elif defined(__aarch64__)
#define KPT_PROBE_KEEP(v) __asm__ volatile("" : "+w"(v))
#else
#define KPT_PROBE_KEEP(v) __asm__ volatile("" : "+m"(v))
#endif

namespace kpt::cpu {
namespace baseline {
namespace {

// GCC and Clang turn these into the target's own vectors: SSE2, NEON.
typedef float Float4 __attribute__((vector_size(16)));
typedef uint64_t Word2 __attribute__((vector_size(16)));

// As many independent sums as hide the latency and still fit the 16 registers of SSE2.
constexpr int kSums = 10;

}  // namespace

double Fp32Loop(int64_t iterations) {
  Float4 sum[kSums] = {};
  Float4 a = {1e-3f, 1e-3f, 1e-3f, 1e-3f};
  for (int64_t i = 0; i < iterations; ++i) {
    KPT_PROBE_KEEP(a);
#pragma GCC unroll 10
    for (int j = 0; j < kSums; ++j) sum[j] = sum[j] * a + a;
  }
  for (Float4& s : sum) KPT_PROBE_KEEP(s);
  return 4.0 * 2 * kSums * iterations;
}

uint64_t ReadLoop(const char* p, int64_t bytes) {
  Word2 sum[4] = {};
  for (int64_t i = 0; i < bytes; i += 64) {
    for (int j = 0; j < 4; ++j) {
      Word2 word;
      std::memcpy(&word, p + i + 16 * j, 16);
      sum[j] ^= word;
    }
  }
  sum[0] ^= sum[1] ^ sum[2] ^ sum[3];
  return sum[0][0] ^ sum[0][1];
}

// The C library knows the target's non-temporal stores and when they pay.
void CopyLoop(const char* from, char* to, int64_t bytes, bool /*streaming*/) {
  std::memcpy(to, from, bytes);
}

}  // namespace baseline

namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::time_point from) {
  return std::chrono::duration<double>(Clock::now() - from).count();
}

using PeakLoop = double (*)(int64_t iterations);

template <PeakLoop loop>
Status RunPeak(const LaunchContext& ctx, ProbePeakArgs* const& args) {
  int team = 1;
  double operations = 0;
  const auto run = [&](int64_t iterations) {
    Parallel(ctx.num_threads, [&](int thread, int threads) {
      const double done = loop(iterations);
      if (thread != 0) return;
      operations = done;
      team = threads;
    });
  };
  run(1);  // wakes the threads
  const Clock::time_point start = Clock::now();
  run(args->iterations);
  args->seconds = Seconds(start);
  args->operations = operations * team;
  return Status();
}

template <ProbeCompute compute>
bool Is(const LaunchContext&, ProbePeakArgs* const& args) {
  return args->compute == compute;
}

using PeakVariant = Variant<ProbePeakArgs*>;

constexpr PeakVariant kPeakVariants[] = {
#if KPT_HAVE_X86_VARIANTS
    {"amx_bf16", Isa::kAmx, Is<ProbeCompute::kBf16>, RunPeak<amx::Bf16Loop>},
    {"amx_int8", Isa::kAmx, Is<ProbeCompute::kInt8>, RunPeak<amx::Int8Loop>},
    {"avx512_bf16", Isa::kAvx512Bf16, Is<ProbeCompute::kBf16>, RunPeak<avx512_bf16::Bf16Loop>},
    {"avx512_vnni", Isa::kAvx512Bf16, Is<ProbeCompute::kInt8>, RunPeak<avx512_bf16::Int8Loop>},
    {"avx512_int16", Isa::kAvx512, Is<ProbeCompute::kInt8>, RunPeak<avx512::Int8Loop>},
    {"avx512_fma", Isa::kAvx512, nullptr, RunPeak<avx512::Fp32Loop>},
    {"avx2_int16", Isa::kAvx2, Is<ProbeCompute::kInt8>, RunPeak<avx2::Int8Loop>},
    {"avx2_fma", Isa::kAvx2, nullptr, RunPeak<avx2::Fp32Loop>},
#endif
    {"baseline", Isa::kBaseline, nullptr, RunPeak<baseline::Fp32Loop>},
};

using ReadLoop = uint64_t (*)(const char* p, int64_t bytes);
using CopyLoop = void (*)(const char* from, char* to, int64_t bytes, bool streaming);

template <ReadLoop read, CopyLoop copy>
Status RunMemory(const LaunchContext& ctx, ProbeMemoryArgs* const& args) {
  const char* source = static_cast<const char*>(args->source);
  char* target = static_cast<char*>(args->target);
  int team = 1;
  int64_t share = 0;
  const auto run = [&](int64_t repeats) {
    Parallel(ctx.num_threads, [&](int thread, int threads) {
      const int64_t mine = args->bytes / threads / kProbeShare * kProbeShare;
      for (int64_t i = 0; i < repeats; ++i) {
        if (target != nullptr) {
          copy(source + thread * mine, target + thread * mine, mine, args->streaming);
        } else {
          volatile uint64_t sink = read(source + thread * mine, mine);
          (void)sink;
        }
      }
      if (thread != 0) return;
      share = mine;
      team = threads;
    });
  };
  run(0);  // wakes the threads, touches nothing
  const Clock::time_point start = Clock::now();
  run(args->repeats);
  args->seconds = Seconds(start);
  const double once = static_cast<double>(share) * team * args->repeats;
  args->moved = target != nullptr ? 2 * once : once;
  return Status();
}

using MemoryVariant = Variant<ProbeMemoryArgs*>;

constexpr MemoryVariant kMemoryVariants[] = {
#if KPT_HAVE_X86_VARIANTS
    {"avx512", Isa::kAvx512, nullptr, RunMemory<avx512::ReadLoop, avx512::CopyLoop>},
    {"avx2", Isa::kAvx2, nullptr, RunMemory<avx2::ReadLoop, avx2::CopyLoop>},
#endif
    {"baseline", Isa::kBaseline, nullptr, RunMemory<baseline::ReadLoop, baseline::CopyLoop>},
};

bool Aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }

}  // namespace

Status ProbePeak(const LaunchContext& ctx, ProbePeakArgs* args) {
  if (args->iterations < 1) {
    return Status::InvalidArgument("probe_peak: argument 'iterations' must be at least 1, got " +
                                   std::to_string(args->iterations));
  }
  return RunFirst("probe_peak", kPeakVariants, ctx, args);
}

Status ProbeMemory(const LaunchContext& ctx, ProbeMemoryArgs* args) {
  if (args->source == nullptr || !Aligned(args->source) || !Aligned(args->target)) {
    return Status::InvalidArgument("probe_memory: source and target must be 64-byte aligned");
  }
  if (args->bytes < kProbeShare * ctx.num_threads) {
    return Status::InvalidArgument("probe_memory: at least 65536 bytes a thread are needed, got " +
                                   std::to_string(args->bytes));
  }
  if (args->repeats < 1) {
    return Status::InvalidArgument("probe_memory: argument 'repeats' must be at least 1, got " +
                                   std::to_string(args->repeats));
  }
  return RunFirst("probe_memory", kMemoryVariants, ctx, args);
}

std::vector<VariantInfo> ProbePeakVariants() { return ListVariants(kPeakVariants); }
std::vector<VariantInfo> ProbeMemoryVariants() { return ListVariants(kMemoryVariants); }

}  // namespace kpt::cpu
