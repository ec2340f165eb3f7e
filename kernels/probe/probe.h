// Probes: the machine's own limits, measured by plain loops in the process that runs the kernels.
//
// A share of a limit that was measured at another time, or on another day's clock frequency, says
// little; benchmarks therefore run these next to what they measure.
#ifndef KPT_KERNELS_PROBE_PROBE_H_
#define KPT_KERNELS_PROBE_PROBE_H_

#include <cstdint>
#include <vector>

#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/variant.h"

namespace kpt::cpu {

enum class ProbeCompute {
  kFp32,  // fused multiply-adds in fp32
  kBf16,  // bf16 products summed in fp32; below AVX-512 BF16 these are fp32 multiply-adds
  kInt8,  // int8 products summed in int32; below VNNI pairs of int16 products, below AVX2 fp32
};

struct ProbePeakArgs {
  ProbeCompute compute = ProbeCompute::kFp32;
  int64_t iterations = 0;  // of a loop of some ten to hundred instructions, on every thread
  double seconds = 0;      // result: wall time of the slowest thread
  double operations = 0;   // result: multiplies and adds, counted apart, over all threads
};

// Runs independent multiply-adds on registers or tiles alone, on ctx.num_threads threads.
// InvalidArgument when iterations < 1.
Status ProbePeak(const LaunchContext& ctx, ProbePeakArgs* args);

struct ProbeMemoryArgs {
  const void* source = nullptr;  // 64-byte aligned
  void* target = nullptr;        // 64-byte aligned; nullptr: read only
  int64_t bytes = 0;             // of the source (and the target); whole 64 KiB a thread are used
  bool streaming = false;        // write past the caches, as suits targets larger than them
  int64_t repeats = 1;           // passes over the same memory
  double seconds = 0;            // result
  double moved = 0;              // result: bytes read plus bytes written
};

// Reads `source`, or copies it to `target`, each thread its own contiguous share.
// InvalidArgument for a null or misaligned pointer, less than 64 KiB a thread, or repeats < 1.
Status ProbeMemory(const LaunchContext& ctx, ProbeMemoryArgs* args);

std::vector<VariantInfo> ProbePeakVariants();
std::vector<VariantInfo> ProbeMemoryVariants();

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_PROBE_PROBE_H_
