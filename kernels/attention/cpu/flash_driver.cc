#include "kernels/attention/cpu/flash_driver.h"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <limits>
#include <vector>

#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"

namespace kpt::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

size_t Align(size_t bytes) { return (bytes + 63) / 64 * 64; }

// One thread's working memory, cut from one scratch buffer.
struct Workspace {
  char* block;
  char* packed_k;
  char* packed_v;
  float* key_bias;
};

// What the largest of the problems needs.
struct WorkspaceBytes {
  size_t block = 0, packed_k = 0, packed_v = 0, key_bias = 0;

  void Cover(const FlashKernel& kernel, const FlashProblem& p) {
    block = Align(kernel.block_bytes());
    packed_k = std::max(packed_k, Align(kernel.packed_k_bytes(p, p.seqlen_k)));
    packed_v = std::max(packed_v, Align(kernel.packed_v_bytes(p, p.seqlen_k)));
    if (HasKeyMask(p)) key_bias = std::max(key_bias, KeyBiasBytes(p));
  }
  bool Allocate(Workspace* w) const {
    char* memory = ScratchAs<char>(0, block + packed_k + packed_v + key_bias);
    if (memory == nullptr) return false;
    w->block = memory;
    w->packed_k = w->block + block;
    w->packed_v = w->packed_k + packed_k;
    w->key_bias = reinterpret_cast<float*>(w->packed_v + packed_v);
    return true;
  }
};

void PrefetchRows(const void* data, const HeadStrides& stride, int64_t batch, int64_t head,
                  int64_t begin, int64_t end, int64_t dim, int64_t item_size) {
  const char* base =
      static_cast<const char*>(data) + (batch * stride.batch + head * stride.head) * item_size;
  for (int64_t row = begin; row < end; ++row) {
    const char* p = base + row * stride.row * item_size;
    for (int64_t byte = 0; byte < dim * item_size; byte += 64) __builtin_prefetch(p + byte, 0, 2);
  }
}

// One problem's part of all tasks. A task is a KV head, or a piece of its query blocks.
struct Part {
  const FlashProblem* problem;
  int64_t first_task;
  int64_t blocks;  // query blocks a KV head
  int64_t pieces;  // a head
};

struct Plan {
  std::vector<Part> parts;
  int64_t tasks = 0;
  int threads;
  bool prefetch;
};

Plan MakePlan(const LaunchContext& ctx, const FlashKernel& kernel, const FlashProblem* problems,
              int64_t count) {
  Plan plan;
  int64_t heads = 0;
  double flops = 0.0;
  int64_t longest_bytes = 0;
  for (const FlashProblem* p = problems; p != problems + count; ++p) {
    if (p->batch == 0 || p->heads_q == 0 || p->seqlen_q == 0) continue;
    const int64_t row_blocks = (p->seqlen_q + kernel.block_rows - 1) / kernel.block_rows;
    plan.parts.push_back({p, 0, row_blocks * (p->heads_q / p->heads_kv), 1});
    heads += p->batch * p->heads_kv;
    flops += PairFlops(*p) * static_cast<double>(p->dim_qk + p->dim_v);
    const int64_t row_bytes = std::max(p->dim_qk, p->dim_v) * ItemSize(p->dtype);
    longest_bytes = std::max(longest_bytes, std::max(p->seqlen_q, p->seqlen_k) * row_bytes);
  }
  plan.threads = ThreadsWorth(ctx, flops);
  // With few heads the queries are split as well. Each piece packs the keys again, which is cheap
  // next to the products; a piece takes every pieces-th block, since under a causal mask the late
  // blocks cost more.
  const bool alike = plan.parts.size() == 1 && heads % plan.threads == 0;
  const bool even = alike || heads >= 4 * plan.threads;
  for (Part& part : plan.parts) {
    part.pieces = even ? 1 : std::min<int64_t>(plan.threads, part.blocks);
    part.first_task = plan.tasks;
    plan.tasks += part.problem->batch * part.problem->heads_kv * part.pieces;
  }
  // Short heads wait for memory while packing, so the rows of the next task are prefetched while
  // this one computes. That needs the next task drawn early, which with few tasks would leave
  // threads idle at the end.
  constexpr int64_t kShortHeadBytes = 64 * 1024;
  plan.prefetch = plan.tasks >= 16 * plan.threads && longest_bytes <= kShortHeadBytes;
  return plan;
}

struct Place {
  Place(const Plan& plan, int64_t task) {
    part = &plan.parts.front();
    if (plan.parts.size() > 1) {
      part = &*std::prev(std::upper_bound(
          plan.parts.begin(), plan.parts.end(), task,
          [](int64_t index, const Part& candidate) { return index < candidate.first_task; }));
    }
    const int64_t index = task - part->first_task;
    const int64_t head = index / part->pieces;
    piece = index % part->pieces;
    batch = head / part->problem->heads_kv;
    head_kv = head % part->problem->heads_kv;
  }

  const Part* part;
  int64_t batch, head_kv, piece;
};

// Runs one task; when `next` < plan.tasks, prefetches that task meanwhile.
void RunTask(const FlashKernel& kernel, const Plan& plan, const Workspace& memory, int64_t index,
             int64_t next) {
  const Place place(plan, index);
  const FlashProblem& p = *place.part->problem;
  FlashTask task{};
  task.batch = place.batch;
  task.head_kv = place.head_kv;
  task.keys = {0, p.seqlen_k};
  task.packed_k = memory.packed_k;
  task.packed_v = memory.packed_v;
  task.block = memory.block;
  const bool key_mask = HasKeyMask(p);
  task.row_bias = (p.mask != nullptr && !key_mask) || p.alibi != nullptr || p.q_doc != nullptr;
  if (key_mask) ApplyKeyMask(kernel.fill_mask, p, memory.key_bias, &task);
  kernel.pack(p, task);

  const int64_t group = p.heads_q / p.heads_kv;
  const bool prefetch = plan.prefetch && next < plan.tasks;
  const Place then(plan, prefetch ? next : index);
  const FlashProblem& n = *then.part->problem;
  const int64_t item = ItemSize(p.dtype);
  int64_t block = 0;
  for (int64_t row = 0; row < p.seqlen_q; row += kernel.block_rows) {
    const int64_t rows = std::min<int64_t>(kernel.block_rows, p.seqlen_q - row);
    for (int64_t g = 0; g < group; ++g, ++block) {
      if (prefetch) {
        const int64_t begin = n.seqlen_k * block / place.part->blocks;
        const int64_t end = n.seqlen_k * (block + 1) / place.part->blocks;
        PrefetchRows(n.k, n.k_stride, then.batch, then.head_kv, begin, end, n.dim_qk, item);
        PrefetchRows(n.v, n.v_stride, then.batch, then.head_kv, begin, end, n.dim_v, item);
        PrefetchRows(n.q, n.q_stride, then.batch, then.head_kv * group + g,
                     std::min(row, n.seqlen_q), std::min(row + rows, n.seqlen_q), n.dim_qk, item);
      }
      if (block % place.part->pieces == place.piece) {
        kernel.run(p, task, task.head_kv * group + g, row, static_cast<int>(rows));
      }
    }
  }
}

}  // namespace

bool HasKeyMask(const FlashProblem& p) {
  return p.mask != nullptr && (p.mask_stride.row == 0 || p.seqlen_q == 1) &&
         (p.mask_stride.head == 0 || p.heads_q == p.heads_kv);
}

// Masks that pad a batch hide keys at the ends: those are not even packed. Where every query sees
// every key but for the mask, an additive mask below any possible score counts as hidden as long as
// some key is not, since its weight is then exactly zero.
void ApplyKeyMask(FlashKernel::FillMask fill_mask, const FlashProblem& p, float* bias,
                  FlashTask* task) {
  const int64_t n = p.seqlen_k;
  fill_mask(p, task->batch, task->head_kv, 0, 0, n, bias);
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

size_t KeyBiasBytes(const FlashProblem& p) {
  return Align(static_cast<size_t>(p.seqlen_k) * sizeof(float)) + 4096;
}

double PairFlops(const FlashProblem& p) {
  return 2.0 * static_cast<double>(p.batch * p.heads_q) * static_cast<double>(p.seqlen_q) *
         static_cast<double>(p.seqlen_k);
}

int ThreadsWorth(const LaunchContext& ctx, double flops) {
  constexpr double kFlopsWorthAThread = 4e5;
  const double worth = flops / kFlopsWorthAThread;
  return std::max(1, worth < ctx.num_threads ? static_cast<int>(worth) : ctx.num_threads);
}

Status RunFlash(const LaunchContext& ctx, const FlashKernel& kernel, const FlashProblem* problems,
                int64_t count) {
  const Plan plan = MakePlan(ctx, kernel, problems, count);
  if (plan.tasks == 0) return Status();
  WorkspaceBytes bytes;
  for (const Part& part : plan.parts) bytes.Cover(kernel, *part.problem);
  std::atomic<int64_t> next{0};
  std::atomic<bool> out_of_memory{false};
  Parallel(plan.threads, [&](int, int) {
    Workspace memory;
    if (!bytes.Allocate(&memory)) {
      out_of_memory.store(true);
      return;
    }
    if (kernel.enter != nullptr) kernel.enter();
    int64_t task = next.fetch_add(1);
    while (task < plan.tasks) {
      const int64_t early = plan.prefetch ? next.fetch_add(1) : plan.tasks;
      RunTask(kernel, plan, memory, task, early);
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
