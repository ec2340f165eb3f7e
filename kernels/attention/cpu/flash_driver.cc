#include "kernels/attention/cpu/flash_driver.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"

namespace kpt::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

size_t Align(size_t bytes) { return (bytes + 63) / 64 * 64; }

// A mask that is the same for all queries of a KV head becomes one bias vector a task.
bool HasKeyMask(const FlashProblem& p) {
  return p.mask != nullptr && (p.mask_stride.row == 0 || p.seqlen_q == 1) &&
         (p.mask_stride.head == 0 || p.heads_q == p.heads_kv);
}

// One thread's working memory, cut from one scratch buffer.
struct Workspace {
  char* block;
  char* packed_k;
  char* packed_v;
  float* key_bias;
};

bool GetWorkspace(const FlashKernel& kernel, const FlashProblem& p, Workspace* w) {
  const size_t block = Align(kernel.block_bytes());
  const size_t packed_k = Align(kernel.packed_k_bytes(p, p.seqlen_k));
  const size_t packed_v = Align(kernel.packed_v_bytes(p, p.seqlen_k));
  const size_t key_bias = HasKeyMask(p) ? Align(p.seqlen_k * sizeof(float)) + 4096 : 0;
  char* memory = ScratchAs<char>(0, block + packed_k + packed_v + key_bias);
  if (memory == nullptr) return false;
  w->block = memory;
  w->packed_k = w->block + block;
  w->packed_v = w->packed_k + packed_k;
  w->key_bias = reinterpret_cast<float*>(w->packed_v + packed_v);
  return true;
}

// Masks that pad a batch hide keys at the ends: those are not even packed. Where every query sees
// every key but for the mask, an additive mask below any possible score counts as hidden as long as
// some key is not, since its weight is then exactly zero.
void ApplyKeyMask(const FlashKernel& kernel, const FlashProblem& p, float* bias, FlashTask* task) {
  const int64_t n = p.seqlen_k;
  kernel.fill_mask(p, task->batch, task->head_kv, 0, 0, n, bias);
  float highest = -kInfinity;
  for (int64_t j = 0; j < n; ++j) {
    if (!(bias[j] <= highest)) highest = bias[j];  // NaN stays visible
  }
  constexpr float kBelowAnyScore = -1e37f;
  const bool mask_alone =
      !p.is_causal && p.window_left < 0 && p.window_right < 0 && p.q_doc == nullptr;
  const float limit = mask_alone && highest > -1e30f ? kBelowAnyScore : -kInfinity;
  const auto hidden = [&](int64_t j) { return bias[j] <= limit; };
  int64_t begin = 0;
  int64_t end = n;
  while (begin < end && hidden(begin)) ++begin;
  while (begin < end && hidden(end - 1)) --end;
  task->keys = {begin, end};
  for (int64_t j = begin; j < end; ++j) {
    if (bias[j] != 0.0f) {
      task->key_bias = bias + begin;
      return;
    }
  }
}

void PrefetchRows(const void* data, const HeadStrides& stride, int64_t batch, int64_t head,
                  int64_t begin, int64_t end, int64_t dim, int64_t item_size) {
  const char* base =
      static_cast<const char*>(data) + (batch * stride.batch + head * stride.head) * item_size;
  for (int64_t row = begin; row < end; ++row) {
    const char* p = base + row * stride.row * item_size;
    for (int64_t byte = 0; byte < dim * item_size; byte += 64) __builtin_prefetch(p + byte, 0, 2);
  }
}

struct Plan {
  int threads;
  int64_t heads;   // KV heads of all batch entries
  int64_t pieces;  // parts a head's query blocks are split into
  int64_t blocks;  // query blocks a KV head
  bool prefetch;
};

Plan MakePlan(const LaunchContext& ctx, const FlashKernel& kernel, const FlashProblem& p) {
  Plan plan;
  plan.heads = p.batch * p.heads_kv;
  const int64_t row_blocks = (p.seqlen_q + kernel.block_rows - 1) / kernel.block_rows;
  plan.blocks = row_blocks * (p.heads_q / p.heads_kv);
  // Starting the other threads costs microseconds.
  constexpr double kFlopsWorthAThread = 4e5;
  const double flops = 2.0 * static_cast<double>(p.batch * p.heads_q) *
                       static_cast<double>(p.seqlen_q) * static_cast<double>(p.seqlen_k) *
                       static_cast<double>(p.dim_qk + p.dim_v);
  const double worth = flops / kFlopsWorthAThread;
  plan.threads = worth < ctx.num_threads ? static_cast<int>(worth) : ctx.num_threads;
  if (plan.threads < 1) plan.threads = 1;
  // With few heads the queries are split as well. Each piece packs the keys again, which is cheap
  // next to the products; a piece takes every pieces-th block, since under a causal mask the late
  // blocks cost more.
  const bool even = plan.heads >= 4 * plan.threads || plan.heads % plan.threads == 0;
  plan.pieces = even ? 1 : std::min<int64_t>(plan.threads, plan.blocks);
  // Short heads wait for memory while packing, so the rows of the next task are prefetched while
  // this one computes. That needs the next task drawn early, which with few tasks would leave
  // threads idle at the end.
  constexpr int64_t kShortHeadBytes = 64 * 1024;
  const int64_t row_bytes = std::max(p.dim_qk, p.dim_v) * ItemSize(p.dtype);
  plan.prefetch = plan.heads * plan.pieces >= 16 * plan.threads &&
                  std::max(p.seqlen_q, p.seqlen_k) * row_bytes <= kShortHeadBytes;
  return plan;
}

// Runs one task; when `next` < plan.heads * plan.pieces, prefetches that task meanwhile.
void RunTask(const FlashKernel& kernel, const FlashProblem& p, const Plan& plan,
             const Workspace& memory, int64_t index, int64_t next) {
  FlashTask task{};
  task.batch = index / plan.pieces / p.heads_kv;
  task.head_kv = index / plan.pieces % p.heads_kv;
  task.keys = {0, p.seqlen_k};
  task.packed_k = memory.packed_k;
  task.packed_v = memory.packed_v;
  task.block = memory.block;
  const bool key_mask = HasKeyMask(p);
  task.row_bias = (p.mask != nullptr && !key_mask) || p.alibi != nullptr || p.q_doc != nullptr;
  if (key_mask) ApplyKeyMask(kernel, p, memory.key_bias, &task);
  kernel.pack(p, task);

  const int64_t piece = index % plan.pieces;
  const int64_t group = p.heads_q / p.heads_kv;
  const bool prefetch = plan.prefetch && next < plan.heads * plan.pieces;
  const int64_t next_batch = next / plan.pieces / p.heads_kv;
  const int64_t next_head = next / plan.pieces % p.heads_kv;
  const int64_t item = ItemSize(p.dtype);
  int64_t block = 0;
  for (int64_t row = 0; row < p.seqlen_q; row += kernel.block_rows) {
    const int64_t rows = std::min<int64_t>(kernel.block_rows, p.seqlen_q - row);
    for (int64_t g = 0; g < group; ++g, ++block) {
      if (prefetch) {
        const int64_t begin = p.seqlen_k * block / plan.blocks;
        const int64_t end = p.seqlen_k * (block + 1) / plan.blocks;
        PrefetchRows(p.k, p.k_stride, next_batch, next_head, begin, end, p.dim_qk, item);
        PrefetchRows(p.v, p.v_stride, next_batch, next_head, begin, end, p.dim_v, item);
        PrefetchRows(p.q, p.q_stride, next_batch, next_head * group + g, row, row + rows, p.dim_qk,
                     item);
      }
      if (block % plan.pieces == piece) {
        kernel.run(p, task, task.head_kv * group + g, row, static_cast<int>(rows));
      }
    }
  }
}

}  // namespace

Status RunFlash(const LaunchContext& ctx, const FlashKernel& kernel, const FlashProblem& p) {
  if (p.batch == 0 || p.heads_q == 0 || p.seqlen_q == 0) return Status();
  const Plan plan = MakePlan(ctx, kernel, p);
  const int64_t tasks = plan.heads * plan.pieces;
  std::atomic<int64_t> next{0};
  std::atomic<bool> out_of_memory{false};
  Parallel(plan.threads, [&](int, int) {
    Workspace memory;
    if (!GetWorkspace(kernel, p, &memory)) {
      out_of_memory.store(true);
      return;
    }
    if (kernel.enter != nullptr) kernel.enter();
    int64_t task = next.fetch_add(1);
    while (task < tasks) {
      const int64_t early = plan.prefetch ? next.fetch_add(1) : tasks;
      RunTask(kernel, p, plan, memory, task, early);
      task = plan.prefetch ? early : next.fetch_add(1);
    }
    if (kernel.leave != nullptr) kernel.leave();
  });
  if (out_of_memory.load()) {
    return Status::ResourceExhausted(
        "attention_forward: no memory for the packed keys and values of one head");
  }
  return Status();
}

}  // namespace kpt::cpu
