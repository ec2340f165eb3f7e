// The panel: the packed form of a weight [N, K] that every matrix kernel of this family reads.
//
// K is counted in dwords (32-bit groups): a dword holds the 1 (fp32), 2 (bf16) or 4 (int8, fp8)
// consecutive k of one output, as the dot instructions want them. A panel holds 64 outputs as
// [depth][64] dwords, so one k group of a panel is 256 contiguous bytes; a packed weight is
// [PanelCount(N)] panels. N is zero filled to a multiple of 64 and K to a multiple of 16 dwords,
// which makes every 16 x 16 dword block an AMX B tile that is read in place (row stride 256 bytes,
// four tiles of 16 outputs side by side). Packed buffers are 64-byte aligned.
//
// A *group* is one quarter of a panel: 16 outputs, row stride 64 dwords.
#ifndef KPT_KERNELS_GEMM_CPU_PANEL_H_
#define KPT_KERNELS_GEMM_CPU_PANEL_H_

#include <cstdint>

namespace kpt::cpu {

inline constexpr int64_t kPanelCols = 64;
inline constexpr int64_t kPanelGroup = 16;
inline constexpr int64_t kPanelDepthStep = 16;
inline constexpr int64_t kPanelRowBytes = kPanelCols * 4;

// Depth in dwords of a panel over k elements of which `per_dword` fit in one dword.
constexpr int64_t PanelDepth(int64_t k, int64_t per_dword) {
  const int64_t dwords = k / per_dword + (k % per_dword != 0 ? 1 : 0);
  return (dwords + kPanelDepthStep - 1) / kPanelDepthStep * kPanelDepthStep;
}

constexpr int64_t PanelCount(int64_t n) { return (n + kPanelCols - 1) / kPanelCols; }

// Size in dwords of one panel and of a whole packed weight.
constexpr int64_t PanelDwords(int64_t depth) { return depth * kPanelCols; }
constexpr int64_t PackedDwords(int64_t n, int64_t k, int64_t per_dword) {
  return PanelCount(n) * PanelDwords(PanelDepth(k, per_dword));
}

// Offset in dwords of group row 0 of output n (n a multiple of 16) within a packed weight.
constexpr int64_t GroupOffset(int64_t n, int64_t depth) {
  return n / kPanelCols * PanelDwords(depth) + n % kPanelCols;
}

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_CPU_PANEL_H_
