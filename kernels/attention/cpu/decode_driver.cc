#include "kernels/attention/cpu/decode_driver.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"

namespace kpt::cpu {
namespace {

constexpr int64_t kLeastPiece = 512;
constexpr int64_t kMostPieces = 64;

int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// By the keys alone, so that no result depends on what else is computed.
int64_t PieceKeys(int64_t keys) {
  return std::max(kLeastPiece, RoundUp((keys + kMostPieces - 1) / kMostPieces, kDecodeKeys));
}

int64_t Pieces(const DecodeUnit& unit) {
  const int64_t keys = unit.keys.end - unit.keys.begin;
  return keys <= 0 ? 0 : (keys + PieceKeys(keys) - 1) / PieceKeys(keys);
}

KeyRange PieceRange(const DecodeUnit& unit, int64_t piece) {
  const int64_t size = PieceKeys(unit.keys.end - unit.keys.begin);
  const int64_t begin = unit.keys.begin + piece * size;
  return {begin, std::min(begin + size, unit.keys.end)};
}

struct Plan {
  int64_t chunks;  // units of a KV head
  int64_t units;
  int64_t floats;  // of one partial result
  bool split;      // pieces are tasks of their own
  int threads;
};

DecodeUnit UnitAt(const DecodeProblem& p, const Plan& plan, int64_t index) {
  DecodeUnit unit;
  const int64_t head = index / plan.chunks;
  unit.batch = head / p.heads_kv;
  unit.head_kv = head % p.heads_kv;
  unit.row = index % plan.chunks * kDecodeRows;
  const int64_t rows = p.heads_q / p.heads_kv * p.seqlen_q;
  unit.rows = static_cast<int>(std::min<int64_t>(kDecodeRows, rows - unit.row));
  unit.seq_len = SeqLen(p, unit.batch);
  unit.keys = {0, unit.seq_len};
  const int64_t first = unit.seq_len - p.seqlen_q;
  if (p.window_left >= 0 && first > p.window_left) unit.keys.begin = first - p.window_left;
  return unit;
}

DecodePartial PartialAt(float* memory) {
  return {memory, memory + kDecodeRows, memory + 2 * kDecodeRows};
}

Status NoMemory() {
  return Status::ResourceExhausted("attention_decode: no memory for the results of its pieces");
}

// The sum of nothing.
void Clear(const DecodePartial& total, int64_t dim) {
  for (int r = 0; r < kDecodeRows; ++r) {
    total.max[r] = -__builtin_huge_valf();
    total.sum[r] = 0.0f;
  }
  std::fill(total.out, total.out + kDecodeRows * dim, 0.0f);
}

}  // namespace

Status RunDecode(const LaunchContext& ctx, const DecodeKernel& kernel, const DecodeProblem& p) {
  if (p.batch == 0 || p.heads_q == 0 || p.seqlen_q == 0) return Status();
  const int64_t dim = kernel.padded_dim(p);
  Plan plan;
  plan.chunks = (p.heads_q / p.heads_kv * p.seqlen_q + kDecodeRows - 1) / kDecodeRows;
  plan.units = p.batch * p.heads_kv * plan.chunks;
  plan.floats = RoundUp(kDecodeRows * (2 + dim), 16);
  // Starting the other threads costs microseconds.
  constexpr double kBytesWorthAThread = 128 * 1024;
  double bytes = 0;
  for (int64_t b = 0; b < p.batch; ++b) {
    bytes += static_cast<double>(SeqLen(p, b)) * static_cast<double>(p.heads_kv) *
             static_cast<double>((p.dim_qk + p.dim_v) * ItemSize(p.cache_dtype));
  }
  const double worth = bytes / kBytesWorthAThread;
  plan.threads = worth < ctx.num_threads ? std::max(1, static_cast<int>(worth)) : ctx.num_threads;
  plan.split = plan.threads > 1 && plan.units < 4 * plan.threads;

  // Tasks: units, or where those are few every piece. first[u] is the first piece of unit u.
  const size_t state_bytes = (kernel.state_bytes() + 63) / 64 * 64;
  std::vector<int64_t> first(plan.split ? plan.units + 1 : 0);
  float* partials = nullptr;
  if (plan.split) {
    for (int64_t u = 0; u < plan.units; ++u) first[u + 1] = first[u] + Pieces(UnitAt(p, plan, u));
    partials = ScratchAs<float>(1, static_cast<size_t>(first.back() * plan.floats));
    if (partials == nullptr) return NoMemory();
  }
  std::atomic<int64_t> next{0};
  std::atomic<bool> out_of_memory{false};
  // A state, the result of a piece and the sum of a unit's pieces.
  const size_t partial_bytes = static_cast<size_t>(plan.floats) * sizeof(float);
  const auto each_thread = [&](auto&& body) {
    Parallel(plan.threads, [&](int, int) {
      char* memory = ScratchAs<char>(0, state_bytes + 2 * partial_bytes);
      if (memory == nullptr) {
        out_of_memory.store(true);
        return;
      }
      float* piece = reinterpret_cast<float*>(memory + state_bytes);
      body(memory, PartialAt(piece), PartialAt(piece + plan.floats));
    });
  };

  if (plan.split) {
    each_thread([&](void* state, const DecodePartial&, const DecodePartial&) {
      for (int64_t task; (task = next.fetch_add(1)) < first.back();) {
        const int64_t u = std::upper_bound(first.begin(), first.end(), task) - first.begin() - 1;
        const DecodeUnit unit = UnitAt(p, plan, u);
        kernel.begin(p, unit, state);
        kernel.piece(p, unit, PieceRange(unit, task - first[u]), state,
                     PartialAt(partials + task * plan.floats));
      }
    });
    next.store(0);
    if (out_of_memory.load()) return NoMemory();
  }
  each_thread([&](void* state, const DecodePartial& piece, const DecodePartial& total) {
    for (int64_t u; (u = next.fetch_add(1)) < plan.units;) {
      const DecodeUnit unit = UnitAt(p, plan, u);
      Clear(total, dim);
      if (!plan.split) kernel.begin(p, unit, state);
      const int64_t pieces = Pieces(unit);
      for (int64_t i = 0; i < pieces; ++i) {
        if (plan.split) {
          const int64_t at = (first[u] + i) * plan.floats;
          kernel.fold(p, unit.rows, PartialAt(partials + at), total);
        } else {
          kernel.piece(p, unit, PieceRange(unit, i), state, piece);
          kernel.fold(p, unit.rows, piece, total);
        }
      }
      kernel.finish(p, unit, total);
    }
  });
  return out_of_memory.load() ? NoMemory() : Status();
}

}  // namespace kpt::cpu
