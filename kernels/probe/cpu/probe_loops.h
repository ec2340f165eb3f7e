// The measured loops, one set per instruction set; each runs on the calling thread.
#ifndef KPT_KERNELS_PROBE_CPU_PROBE_LOOPS_H_
#define KPT_KERNELS_PROBE_CPU_PROBE_LOOPS_H_

#include <cstdint>

namespace kpt::cpu {

// Each returns how many operations it did.
namespace baseline {
double Fp32Loop(int64_t iterations);
}  // namespace baseline
namespace avx2 {
double Fp32Loop(int64_t iterations);
double Int8Loop(int64_t iterations);
}  // namespace avx2
namespace avx512 {
double Fp32Loop(int64_t iterations);
double Int8Loop(int64_t iterations);
}  // namespace avx512
namespace avx512_bf16 {
double Bf16Loop(int64_t iterations);
double Int8Loop(int64_t iterations);
}  // namespace avx512_bf16
namespace amx {
double Bf16Loop(int64_t iterations);
double Int8Loop(int64_t iterations);
}  // namespace amx

// Reads [p, p + bytes), bytes a multiple of 64 KiB; the result depends on every byte.
namespace baseline {
uint64_t ReadLoop(const char* p, int64_t bytes);
void CopyLoop(const char* from, char* to, int64_t bytes, bool streaming);
}  // namespace baseline
namespace avx2 {
uint64_t ReadLoop(const char* p, int64_t bytes);
void CopyLoop(const char* from, char* to, int64_t bytes, bool streaming);
}  // namespace avx2
namespace avx512 {
uint64_t ReadLoop(const char* p, int64_t bytes);
void CopyLoop(const char* from, char* to, int64_t bytes, bool streaming);
}  // namespace avx512

// What the memory loops may count on: every share is a whole number of these.
inline constexpr int64_t kProbeShare = 65536;

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_PROBE_CPU_PROBE_LOOPS_H_
