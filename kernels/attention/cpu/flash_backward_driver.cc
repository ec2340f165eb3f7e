#include "kernels/attention/cpu/flash_backward_driver.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "kernels/attention/cpu/flash_driver.h"
#include "kernels/base/parallel_for.h"
#include "kernels/base/scratch.h"

namespace kpt::cpu {
namespace {

constexpr char kNoMemory[] =
    "attention_backward: no memory for the packed rows and the sums of one head";

size_t Align(size_t bytes) { return (bytes + 63) / 64 * 64; }
size_t FloatBytes(int64_t count) { return Align(static_cast<size_t>(count) * sizeof(float)); }

// The keys of a head are cut into chunks whose number depends on the number of keys alone. The sums
// of a query are those of its chunks, added in order: so the chunks may be worked on by one thread
// or by many.
struct Chunks {
  Chunks(const FlashBackwardKernel& kernel, const FlashProblem& p) : seqlen_k(p.seqlen_k) {
    constexpr int64_t kLeast = 512;
    constexpr int64_t kMost = 8;
    const int64_t wanted = std::max(kLeast, (seqlen_k + kMost - 1) / kMost);
    keys = (wanted + kernel.block_keys - 1) / kernel.block_keys * kernel.block_keys;
    count = (seqlen_k + keys - 1) / keys;
  }
  KeyRange operator[](int64_t i) const { return {i * keys, std::min((i + 1) * keys, seqlen_k)}; }

  int64_t seqlen_k;
  int64_t keys;
  int64_t count;
};

// One head of keys and what its mask leaves of it.
struct Head {
  Head(const FlashBackwardKernel& kernel, const FlashProblem& p, int64_t index, char* workspace,
       float* key_bias) {
    task.batch = index / p.heads_kv;
    task.head_kv = index % p.heads_kv;
    task.keys = {0, p.seqlen_k};
    task.block = workspace;
    const bool key_mask = HasKeyMask(p);
    task.row_bias = (p.mask != nullptr && !key_mask) || p.alibi != nullptr || p.q_doc != nullptr;
    if (key_mask) ApplyKeyMask(kernel.fill_mask, p, key_bias, &task);
  }

  // The part of the task within `range`.
  FlashTask Within(KeyRange range) const {
    FlashTask part = task;
    part.keys = {std::max(task.keys.begin, range.begin), std::min(task.keys.end, range.end)};
    if (part.key_bias != nullptr) part.key_bias += part.keys.begin - task.keys.begin;
    return part;
  }

  FlashTask task{};
};

void Add(TileRange tiles, int64_t tile_floats, const float* from, float* to) {
  const int64_t end = tiles.end * tile_floats;
  for (int64_t i = tiles.begin * tile_floats; i < end; ++i) to[i] += from[i];
}

// What one problem needs, in bytes.
struct Memory {
  Memory() = default;
  Memory(const FlashBackwardKernel& kernel, const FlashProblem& p) : shape(kernel.shape(p)) {
    workspace = Align(shape.workspace_bytes);
    key_bias = HasKeyMask(p) ? KeyBiasBytes(p) : 0;
    grad_q = FloatBytes(shape.tiles * shape.tile_floats);
    grad_k = FloatBytes(p.seqlen_k * shape.columns_qk);
    grad_v = FloatBytes(p.seqlen_k * shape.columns_v);
  }

  FlashBackwardShape shape;
  size_t workspace, key_bias, grad_q, grad_k, grad_v;
};

// A whole head of keys, with all the query heads that read it, by one thread.
bool RunHead(const FlashBackwardKernel& kernel, const FlashBackwardProblem& p, int64_t index) {
  const Memory m(kernel, p);
  const Chunks chunks(kernel, p);
  const size_t more = chunks.count > 1 ? m.grad_q : 0;
  char* memory =
      ScratchAs<char>(0, m.workspace + m.key_bias + m.grad_q + more + m.grad_k + m.grad_v);
  if (memory == nullptr) return false;
  float* key_bias = reinterpret_cast<float*>(memory + m.workspace);
  float* grad_q = reinterpret_cast<float*>(memory + m.workspace + m.key_bias);
  float* chunk_q = grad_q + m.grad_q / sizeof(float);
  float* grad_k = chunk_q + more / sizeof(float);
  float* grad_v = grad_k + m.grad_k / sizeof(float);

  const Head head(kernel, p, index, memory, key_bias);
  const int64_t group = p.heads_q / p.heads_kv;
  std::memset(grad_k, 0, m.grad_k + m.grad_v);
  for (int64_t g = 0; g < group; ++g) {
    const int64_t head_q = head.task.head_kv * group + g;
    std::memset(grad_q, 0, m.grad_q);
    for (int64_t c = 0; c < chunks.count; ++c) {
      const FlashTask task = head.Within(chunks[c]);
      float* sums = c == 0 ? grad_q : chunk_q;
      const TileRange tiles = kernel.run(p, task, head_q, sums, grad_k, grad_v);
      if (c > 0) Add(tiles, m.shape.tile_floats, sums, grad_q);
    }
    kernel.write_queries(p, head.task.batch, head_q, {0, m.shape.tiles}, grad_q, memory);
  }
  kernel.write_keys(p, head.task.batch, head.task.head_kv, 0, p.seqlen_k, grad_k, grad_v);
  return true;
}

// Few heads: every chunk of every head is a task. The query heads that share keys come one after
// another, since they add to the same sums.
bool RunChunks(const FlashBackwardKernel& kernel, const FlashBackwardProblem& p, int threads) {
  const Memory m(kernel, p);
  const Chunks chunks(kernel, p);
  const int64_t heads = p.batch * p.heads_kv;
  const int64_t tasks = heads * chunks.count;
  Temporary sums(static_cast<size_t>(tasks) * m.grad_q +
                 static_cast<size_t>(heads) * (m.grad_k + m.grad_v));
  if (sums.data() == nullptr) return false;
  float* const grad_q = static_cast<float*>(sums.data());
  float* const grad_keys = grad_q + static_cast<size_t>(tasks) * m.grad_q / sizeof(float);
  const auto grad_k = [&](int64_t h) {
    return grad_keys + static_cast<size_t>(h) * (m.grad_k + m.grad_v) / sizeof(float);
  };
  const auto grad_v = [&](int64_t h) { return grad_k(h) + m.grad_k / sizeof(float); };
  const auto chunk_q = [&](int64_t task) {
    return grad_q + static_cast<size_t>(task) * m.grad_q / sizeof(float);
  };
  std::memset(grad_keys, 0, static_cast<size_t>(heads) * (m.grad_k + m.grad_v));

  std::vector<TileRange> tiles(static_cast<size_t>(tasks));
  std::atomic<bool> out_of_memory{false};
  const int64_t group = p.heads_q / p.heads_kv;
  for (int64_t g = 0; g < group; ++g) {
    std::atomic<int64_t> next{0};
    Parallel(threads, [&](int, int) {
      char* memory = ScratchAs<char>(0, m.workspace + m.key_bias);
      if (memory == nullptr) {
        out_of_memory.store(true);
        return;
      }
      float* key_bias = reinterpret_cast<float*>(memory + m.workspace);
      // Under a causal mask the first chunks are seen by most queries: they come first.
      for (int64_t i = next.fetch_add(1); i < tasks; i = next.fetch_add(1)) {
        const int64_t h = i % heads;
        const int64_t at = h * chunks.count + i / heads;
        const Head head(kernel, p, h, memory, key_bias);
        tiles[static_cast<size_t>(at)] =
            kernel.run(p, head.Within(chunks[i / heads]), head.task.head_kv * group + g,
                       chunk_q(at), grad_k(h), grad_v(h));
      }
    });
    if (out_of_memory.load()) return false;

    const int64_t all = heads * m.shape.tiles;
    ParallelFor(threads, all, 1, [&](int64_t begin, int64_t end) {
      char* memory = ScratchAs<char>(0, m.workspace + m.key_bias);  // there already
      for (int64_t i = begin; i < end; ++i) {
        const int64_t h = i / m.shape.tiles;
        const TileRange tile{i % m.shape.tiles, i % m.shape.tiles + 1};
        const auto has = [&](int64_t c) {
          const TileRange& t = tiles[static_cast<size_t>(h * chunks.count + c)];
          return t.begin <= tile.begin && tile.begin < t.end;
        };
        float* first = chunk_q(h * chunks.count);
        if (!has(0)) {
          std::memset(first + tile.begin * m.shape.tile_floats, 0,
                      static_cast<size_t>(m.shape.tile_floats) * sizeof(float));
        }
        for (int64_t c = 1; c < chunks.count; ++c) {
          if (has(c)) Add(tile, m.shape.tile_floats, chunk_q(h * chunks.count + c), first);
        }
        kernel.write_queries(p, h / p.heads_kv, h % p.heads_kv * group + g, tile, first, memory);
      }
    });
  }
  ParallelFor(threads, heads * p.seqlen_k, 64, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t h = begin / p.seqlen_k;
      const int64_t stop = std::min(end, (h + 1) * p.seqlen_k);
      kernel.write_keys(p, h / p.heads_kv, h % p.heads_kv, begin - h * p.seqlen_k,
                        stop - h * p.seqlen_k, grad_k(h), grad_v(h));
      begin = stop;
    }
  });
  return true;
}

// Every head of keys is a task.
bool RunHeads(const FlashBackwardKernel& kernel, const FlashBackwardProblem* problems,
              int64_t count, int threads) {
  std::vector<int64_t> ends;  // of each problem's heads
  int64_t heads = 0;
  for (int64_t i = 0; i < count; ++i) {
    ends.push_back(heads += problems[i].batch * problems[i].heads_kv);
  }
  std::atomic<int64_t> next{0};
  std::atomic<bool> out_of_memory{false};
  Parallel(threads, [&](int, int) {
    for (int64_t i = next.fetch_add(1); i < heads; i = next.fetch_add(1)) {
      const auto end = std::upper_bound(ends.begin(), ends.end(), i);
      const FlashBackwardProblem& p = problems[end - ends.begin()];
      if (!RunHead(kernel, p, i - (*end - p.batch * p.heads_kv))) out_of_memory.store(true);
    }
  });
  return !out_of_memory.load();
}

}  // namespace

Status RunFlashBackward(const LaunchContext& ctx, const FlashBackwardKernel& kernel,
                        const FlashBackwardProblem* problems, int64_t count) {
  int64_t heads = 0;
  double flops = 0.0;
  for (const FlashBackwardProblem* p = problems; p != problems + count; ++p) {
    heads += p->batch * p->heads_kv;
    flops += PairFlops(*p) * static_cast<double>(3 * p->dim_qk + 2 * p->dim_v);
  }
  const int threads = ThreadsWorth(ctx, flops);
  const bool alike = count == 1 && heads % threads == 0;
  bool done = true;
  if (threads == 1 || alike || heads >= 4 * threads) {
    done = RunHeads(kernel, problems, count, threads);
  } else {
    for (const FlashBackwardProblem* p = problems; p != problems + count; ++p) {
      const bool whole = Chunks(kernel, *p).count <= 1;
      done = (whole ? RunHeads(kernel, p, 1, threads) : RunChunks(kernel, *p, threads)) && done;
    }
  }
  return done ? Status() : Status::ResourceExhausted(kNoMemory);
}

}  // namespace kpt::cpu
