// Several matrix products at once, of any sizes, shared evenly among threads; and the choice of the
// kernel for one of them.
#ifndef KPT_KERNELS_GEMM_CPU_LINEAR_PROBLEMS_H_
#define KPT_KERNELS_GEMM_CPU_LINEAR_PROBLEMS_H_

#include <cstdint>
#include <vector>

#include "kernels/base/launch_context.h"
#include "kernels/gemm/cpu/panel_gemm.h"

namespace kpt::cpu {

// One of the kernels that panel_gemm.h declares.
using LinearKernel = bool (*)(int num_threads, const PanelGemm& g);

// The kernel that linear_act runs for g at this ISA level.
LinearKernel ChooseLinearKernel(Isa isa, const PanelGemm& g);

// Intel's vdpbf16ps starts every second cycle, so that two float FMA a cycle do twice the work of
// it; on AMD it is the other way round. Bound by memory (few rows) it is the better one on both.
#if defined(KPT_HAVE_X86_VARIANTS)
inline bool FloatBeatsBf16Pairs() {
  static const bool faster = __builtin_cpu_is("intel") != 0;
  return faster;
}
#endif

struct LinearProblem {
  PanelGemm g;  // no grad; the weight not packed
  LinearKernel kernel = nullptr;
};

// Runs all problems. Their work is laid on one line, in units of 64 columns (and, where those are
// too few for the threads, blocks of rows), and each thread takes an even stretch of it: a group of
// thousands of rows and many of a few keep all threads busy alike. No result depends on the cut.
// False when scratch memory could not be had; outputs are then written in part.
bool RunLinearProblems(int num_threads, const std::vector<LinearProblem>& problems);

}  // namespace kpt::cpu

#endif  // KPT_KERNELS_GEMM_CPU_LINEAR_PROBLEMS_H_
