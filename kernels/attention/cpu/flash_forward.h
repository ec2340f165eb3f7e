// The forward pass over one block of queries: scores, online softmax, weighted values.
//
// An Engine does the two matrix products. It declares
//   Packed                     float, or uint16_t for bfloat16
//   kBlockRows, kGroupRows     queries a block; queries that share a range of keys
//   kTile                      keys (K) or columns (V) of a packed tile
//   kKeyAlign                  a group's range of keys ends at a multiple of this
//   kDepthAlign, kColumnAlign  D and Dv are padded to multiples of these
//   BlockKeys(p)               keys a block, a multiple of kTile and 32, at most kMaxBlockKeys
//   Scores(...), Weighted(...) see register_tile.h
//
// Included by files compiled once per instruction set: everything lies in KPT_SIMD_NS.
#ifndef KPT_KERNELS_ATTENTION_CPU_FLASH_FORWARD_H_
#define KPT_KERNELS_ATTENTION_CPU_FLASH_FORWARD_H_

#include "kernels/attention/cpu/flash_pack.h"
#include "kernels/attention/cpu/flash_softmax.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

template <class Engine>
class FlashForward {
 public:
  static FlashKernel Kernel(void (*enter)(), void (*leave)()) {
    FlashKernel kernel;
    kernel.block_rows = Engine::kBlockRows;
    kernel.block_bytes = [] { return sizeof(B); };
    kernel.packed_k_bytes = [](const FlashProblem& p, int64_t keys) {
      return static_cast<size_t>(Shape(p, keys).k_elements()) * sizeof(Packed);
    };
    kernel.packed_v_bytes = [](const FlashProblem& p, int64_t keys) {
      return static_cast<size_t>(Shape(p, keys).v_elements()) * sizeof(Packed);
    };
    kernel.enter = enter;
    kernel.leave = leave;
    kernel.fill_mask = FillMask;
    kernel.pack = Pack;
    kernel.run = Run;
    return kernel;
  }

 private:
  using Packed = typename Engine::Packed;
  using B = typename Engine::B;
  using Shape = PackedShape<Engine>;

  static void Pack(const FlashProblem& p, const FlashTask& task) {
    B& block = *static_cast<B*>(task.block);
    const int64_t first = task.keys.begin;
    const int64_t keys = task.keys.end - first;
    const Shape shape(p, keys);
    PackByColumns<Engine::kTile, B::kPackedStride>(
        SourceRows(p.k, p.k_stride, task.batch, task.head_kv, first, keys, p.dim_qk, p.dtype),
        shape.keys, shape.depth_dwords, block.rows, static_cast<Packed*>(task.packed_k));
    PackByRows<Engine::kTile, B::kPackedStride>(
        SourceRows(p.v, p.v_stride, task.batch, task.head_kv, first, keys, p.dim_v, p.dtype),
        RoundUp(keys, Engine::kKeyAlign), shape.columns, shape.v_tile, block.rows,
        static_cast<Packed*>(task.packed_v));
  }

  static void Run(const FlashProblem& p, const FlashTask& task, int64_t head_q, int64_t row0,
                  int rows) {
    B& block = *static_cast<B*>(task.block);
    const int64_t num_keys = task.keys.end - task.keys.begin;
    const Shape shape(p, num_keys);
    Group groups[B::kGroups];
    const int num_groups = Start(p, task, shape, head_q, row0, rows, block, groups);

    // Counted from task.keys.begin, where the packed keys start.
    const auto clip = [&](int64_t key) { return Least(Most(key - task.keys.begin, 0), num_keys); };
    const int64_t begin = clip(VisibleKeys(p, row0).begin);
    const int64_t end = clip(VisibleKeys(p, row0 + rows - 1).end);
    const int block_keys = Engine::BlockKeys(p);
    for (int64_t k0 = begin / block_keys * block_keys; k0 < end; k0 += block_keys) {
      for (int i = 0; i < num_groups; ++i) {
        Group& g = groups[i];
        const int64_t from = clip(VisibleKeys(p, row0 + g.row).begin);
        const int64_t to = clip(VisibleKeys(p, row0 + g.row + g.rows - 1).end);
        const int first = static_cast<int>(Most(from - k0, 0));
        const int last = static_cast<int>(Least(to - k0, block_keys));
        g.begin = first / Engine::kTile * Engine::kTile;
        g.end = static_cast<int>(RoundUp(Most(last, 0), Engine::kKeyAlign));
        g.visible = first < last;
      }
      const Packed* k =
          static_cast<const Packed*>(task.packed_k) + k0 / Engine::kTile * shape.k_tile;
      Engine::Scores(block, groups, num_groups, k, shape);
      for (int i = 0; i < num_groups; ++i) {
        Group& g = groups[i];
        if (!g.visible) continue;
        SoftmaxGroup(p, task, head_q, row0, task.keys.begin + k0, block, g);
        if (g.rescaled && !g.first) RescaleOutputs(block, g, shape.columns);
      }
      const Packed* v = static_cast<const Packed*>(task.packed_v) + k0 * Engine::kTile;
      Engine::Weighted(block, groups, num_groups, v, shape);
      for (int i = 0; i < num_groups; ++i) groups[i].first &= !groups[i].visible;
    }
    for (int i = 0; i < num_groups; ++i) Finish(p, task, head_q, row0, shape, block, groups[i]);
  }

  // Reads the queries and sets the state before the first key. Returns the number of groups.
  static int Start(const FlashProblem& p, const FlashTask& task, const Shape& shape, int64_t head_q,
                   int64_t row0, int rows, B& block, Group* groups) {
    const int64_t depth = shape.depth_dwords * Shape::kPerDword;
    for (int r = 0; r < rows; ++r) {
      CopyRow(RowOf(p.q, p.q_stride, task.batch, head_q, row0 + r, p.dtype), p.dtype, p.dim_qk,
              depth, block.q + r * B::kPackedStride);
    }
    // A sink is a key without a value: it sets the first maximum and counts once in the sum.
    const float unit = Units(p, task).transformed ? 1.0f : kLog2E;
    const float sink = p.sinks != nullptr ? p.sinks[head_q * p.sinks_stride] * unit : kNegInf;
    const FloatVec max = Set(sink);
    const FloatVec shift = Set(sink == kNegInf ? 0.0f : sink);
    for (int i = 0; i < B::kStates; i += static_cast<int>(kLanes)) {
      hn::StoreU(max, FloatTag(), block.max + i);
      hn::StoreU(shift, FloatTag(), block.shift + i);
    }
    for (int r = 0; r < rows; ++r) {
      hn::StoreU(Set(0.0f), FloatTag(), block.partial + r * 16);
      if (sink != kNegInf) block.partial[r * 16] = 1.0f;
    }
    int count = 0;
    for (int row = 0; row < rows; row += Engine::kGroupRows, ++count) {
      groups[count] = Group{};
      groups[count].row = row;
      groups[count].rows = static_cast<int>(Least(Engine::kGroupRows, rows - row));
      groups[count].state = count * B::kStateRows;
      groups[count].first = true;
    }
    return count;
  }

  static void RescaleOutputs(B& block, const Group& g, int64_t columns) {
    for (int r = 0; r < g.rows; ++r) {
      const float factor = block.rescale[g.state + r];
      if (factor == 1.0f) continue;
      float* o = block.o + (g.row + r) * kRowFloats;
      for (int64_t c = 0; c < columns; c += kLanes) {
        hn::StoreU(hn::Mul(hn::LoadU(FloatTag(), o + c), Set(factor)), FloatTag(), o + c);
      }
    }
  }

  static void Finish(const FlashProblem& p, const FlashTask& task, int64_t head_q, int64_t row0,
                     const Shape& shape, B& block, const Group& g) {
    alignas(64) float inverse[B::kStateRows];
    alignas(64) float lse[B::kStateRows];
    const float max_unit = Units(p, task).transformed ? 1.0f : kLn2;
    for (int r = 0; r < g.rows; r += 16) {
      ReduceRows<SumOp>(block.partial + (g.row + r) * 16, inverse + r);
      for (int i = r; i < r + 16; i += static_cast<int>(kLanes)) {
        const FloatVec sum = hn::LoadU(FloatTag(), inverse + i);
        const FloatVec max = hn::LoadU(FloatTag(), block.max + g.state + i);
        const FloatVec log = hn::Mul(Log2(sum), Set(kLn2));
        hn::StoreU(hn::MulAdd(max, Set(max_unit), log), FloatTag(), lse + i);
        const auto none = hn::Eq(sum, Set(0.0f));
        hn::StoreU(hn::IfThenZeroElse(none, hn::Div(Set(1.0f), sum)), FloatTag(), inverse + i);
      }
    }
    float* lse_out = p.lse + task.batch * p.lse_stride.batch + head_q * p.lse_stride.head;
    for (int r = 0; r < g.rows; ++r) {
      const int64_t row = row0 + g.row + r;
      float* o = block.o + (g.row + r) * kRowFloats;
      if (g.first) std::memset(o, 0, static_cast<size_t>(shape.columns) * sizeof(float));
      char* out = const_cast<char*>(RowOf(p.out, p.out_stride, task.batch, head_q, row, p.dtype));
      WriteRow(o, inverse[r], p.dim_v, p.dtype, out);
      lse_out[row * p.lse_stride.row] = lse[r];
    }
  }
};

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_ATTENTION_CPU_FLASH_FORWARD_H_
