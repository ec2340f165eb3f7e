#include "kernels/gemm/cpu/linear_problems.h"

#include <algorithm>
#include <atomic>

#include "kernels/base/parallel_for.h"

namespace kpt::cpu {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A problem cut into units: `blocks` of rows, one after the other, each of `columns` units.
struct Cut {
  int64_t begin;  // where its work starts on the line
  int64_t cost;   // of a unit
  int64_t blocks;
  int64_t columns;
};

// Packing 64 columns costs about as much as multiplying 16 rows by them.
int64_t UnitCost(const PanelGemm& g, int64_t rows) { return (rows + 16) * (g.k + 16); }

// The part of g that is rows [m0, m1) and columns [n0, n1).
PanelGemm Part(const PanelGemm& g, int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
  const int64_t item = ItemSize(g.x_dtype);
  PanelGemm part = g;
  part.m = m1 - m0;
  part.x = static_cast<const char*>(g.x) + m0 * g.ldx * item;
  part.weight =
      static_cast<const char*>(g.weight) + n0 * (g.weight_transposed ? 1 : g.ldw) * g.weight_item();
  part.epilogue.n = n1 - n0;
  part.epilogue.up = g.epilogue.up_columns();
  if (g.epilogue.scale != nullptr) part.epilogue.scale = g.epilogue.scale + n0;
  if (g.epilogue.bias != nullptr) {
    part.epilogue.bias =
        static_cast<const char*>(g.epilogue.bias) + n0 * ItemSize(g.epilogue.bias_dtype);
  }
  part.epilogue.y =
      static_cast<char*>(g.epilogue.y) + (m0 * g.epilogue.ldy + n0) * ItemSize(g.epilogue.y_dtype);
  return part;
}

// Lays the problems on a line; returns its length.
int64_t CutProblems(int num_threads, const std::vector<LinearProblem>& problems,
                    std::vector<Cut>* cuts) {
  // Blocks of fewer rows would spend too much of their time packing. With at least four rows each
  // they sum as the whole problem does (panel_gemm.h).
  constexpr int64_t kLeastRows = 128;
  constexpr int64_t kUnitsOfThread = 8;  // more keep the threads even enough
  int64_t total = 0;
  for (const LinearProblem& p : problems) {
    total += UnitCost(p.g, p.g.m) * PanelCount(p.g.epilogue.n);
  }
  const int64_t most = total / (num_threads * kUnitsOfThread) + 1;
  int64_t at = 0;
  for (const LinearProblem& p : problems) {
    Cut cut = {at, UnitCost(p.g, p.g.m), 1, PanelCount(p.g.epilogue.n)};
    if (num_threads > 1 && cut.cost > most && p.g.m >= 2 * kLeastRows) {
      cut.blocks = std::min(CeilDiv(cut.cost, most), p.g.m / kLeastRows);
      cut.cost = UnitCost(p.g, CeilDiv(p.g.m, cut.blocks));
    }
    at += cut.cost * cut.blocks * cut.columns;
    cuts->push_back(cut);
  }
  return at;
}

}  // namespace

bool RunLinearProblems(int num_threads, const std::vector<LinearProblem>& problems) {
  double work = 0;
  for (const LinearProblem& p : problems) {
    work += static_cast<double>(p.g.m + 8) * static_cast<double>(p.g.k) *
            static_cast<double>(p.g.epilogue.n);
  }
  const int threads = UsefulThreads(num_threads, work);
  std::vector<Cut> cuts;
  const int64_t total = CutProblems(threads, problems, &cuts);
  std::atomic<bool> ok{true};
  Parallel(threads, [&](int thread, int all) {
    // The units that start in [lo, hi) are this thread's.
    const int64_t lo = total / all * thread + total % all * thread / all;
    const int64_t hi = total / all * (thread + 1) + total % all * (thread + 1) / all;
    for (size_t i = 0; i < problems.size(); ++i) {
      const PanelGemm& g = problems[i].g;
      const Cut& cut = cuts[i];
      const int64_t units = cut.blocks * cut.columns;
      const auto first_at = [&](int64_t at) {
        return at <= cut.begin ? 0 : std::min(units, CeilDiv(at - cut.begin, cut.cost));
      };
      const int64_t end = first_at(hi);
      for (int64_t u = first_at(lo); u < end;) {
        const int64_t block = u / cut.columns;
        const int64_t c0 = u % cut.columns;
        const int64_t c1 = std::min(cut.columns, c0 + end - u);
        u += c1 - c0;
        const PanelGemm part = Part(g, g.m * block / cut.blocks, g.m * (block + 1) / cut.blocks,
                                    c0 * kPanelCols, std::min(c1 * kPanelCols, g.epilogue.n));
        if (!problems[i].kernel(1, part)) ok.store(false, std::memory_order_relaxed);
      }
    }
  });
  return ok.load();
}

}  // namespace kpt::cpu
