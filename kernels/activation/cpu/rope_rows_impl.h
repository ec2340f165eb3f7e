// RopeRows, for the instruction set that the including file is compiled for.
//
// The tables of a few positions are widened to floats, in the order that rows are read in and with
// the sign of the sine, and then serve all the heads of q and k.
#ifndef KPT_KERNELS_ACTIVATION_CPU_ROPE_ROWS_IMPL_H_
#define KPT_KERNELS_ACTIVATION_CPU_ROPE_ROWS_IMPL_H_

#include <cstring>

#include "kernels/activation/cpu/rope_rows.h"
#include "kernels/base/simd_rotate.h"
#include "kernels/base/simd_widen.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

// Floats of one table that are widened at a time: with those of the other, half of a first-level
// cache.
constexpr int64_t kTableFloats = 2048;

// Positions whose tables are widened together, at most: a head's rows of these are read in a row.
constexpr int64_t kMostPositions = 32;

// Elements [begin, begin + n) of a table's row, for rows of T.
template <class T>
void WidenTable(const RopeJob& job, const void* data, int64_t begin, int64_t n, float* out) {
  const auto widen = [&](auto* p) {
    if (job.interleaved) {
      Widen<float>(p + begin, n, out);
    } else {
      Widen<T>(p + begin, n, out);
    }
  };
  switch (job.table_dtype) {
    case DType::kFloat32:
      return widen(static_cast<const float*>(data));
    case DType::kFloat16:
      return widen(static_cast<const Half*>(data));
    default:
      return widen(static_cast<const BFloat16*>(data));
  }
}

template <class T>
class Block {
 public:
  explicit Block(const RopeJob& job)
      : job_(job), piece_(job.pairs < kTableFloats ? job.pairs : kTableFloats) {}

  // Positions whose tables fit, one piece of each.
  int64_t positions() const {
    if (piece_ == 0) return kMostPositions;
    const int64_t fit = kTableFloats / piece_;
    return fit < kMostPositions ? fit : kMostPositions;
  }

  void Run(int64_t batch, int64_t position, int64_t count) {
    int64_t begin = 0;
    do {
      const int64_t n = job_.pairs - begin < piece_ ? job_.pairs - begin : piece_;
      LoadTables(batch, position, count, begin, n);
      for (const RopeJob::Side& side : job_.sides) {
        RunSide(side, batch, position, count, begin, n);
      }
      begin += piece_;
    } while (begin < job_.pairs);
  }

 private:
  void LoadTables(int64_t batch, int64_t position, int64_t count, int64_t begin, int64_t n) {
    const auto row = [&](const RopeJob::Table& table, int64_t j) {
      const int64_t at = batch * table.batch_stride + (position + j) * table.row_stride;
      return static_cast<const char*>(table.data) + at * ItemSize(job_.table_dtype);
    };
    for (int64_t j = 0; j < count; ++j) {
      WidenTable<T>(job_, row(job_.cos, j), begin, n, cos_ + j * n);
      WidenTable<T>(job_, row(job_.sin, j), begin, n, sin_ + j * n);
    }
    for (int64_t i = 0; job_.inverse && i < count * n; ++i) sin_[i] = -sin_[i];
  }

  // Heads in the inner loop where they lie closer together than positions.
  void RunSide(const RopeJob::Side& side, int64_t batch, int64_t position, int64_t count,
               int64_t begin, int64_t n) {
    const T* in =
        static_cast<const T*>(side.in) + batch * side.in_strides[0] + position * side.in_strides[2];
    T* out =
        static_cast<T*>(side.out) + batch * side.out_strides[0] + position * side.out_strides[2];
    const auto run = [&](int64_t head, int64_t j) {
      Row(in + head * side.in_strides[1] + j * side.in_strides[2],
          out + head * side.out_strides[1] + j * side.out_strides[2], j, begin, n);
    };
    if (side.in_strides[1] < side.in_strides[2]) {
      for (int64_t j = 0; j < count; ++j) {
        for (int64_t head = 0; head < side.heads; ++head) run(head, j);
      }
    } else {
      for (int64_t head = 0; head < side.heads; ++head) {
        for (int64_t j = 0; j < count; ++j) run(head, j);
      }
    }
  }

  void Row(const T* in, T* out, int64_t j, int64_t begin, int64_t n) const {
    const float* cos = cos_ + j * n;
    const float* sin = sin_ + j * n;
    if (job_.interleaved) {
      TurnNeighbours(in + 2 * begin, cos, sin, n, job_.stream, out + 2 * begin);
    } else {
      const int64_t b = job_.pairs + begin;
      TurnHalves(in + begin, in + b, cos, sin, n, job_.stream, out + begin, out + b);
    }
    const int64_t rest = job_.head_dim - 2 * job_.pairs;
    if (begin == 0 && rest > 0 && in != out) {
      std::memcpy(out + 2 * job_.pairs, in + 2 * job_.pairs, static_cast<size_t>(rest) * sizeof(T));
    }
  }

  const RopeJob& job_;
  const int64_t piece_;
  alignas(64) float cos_[kTableFloats];
  alignas(64) float sin_[kTableFloats];
};

template <class T>
void Positions(const RopeJob& job, int64_t begin, int64_t end) {
  Block<T> block(job);
  while (begin < end) {
    const int64_t batch = begin / job.seqlen;
    const int64_t position = begin - batch * job.seqlen;
    int64_t count = block.positions();
    if (count > end - begin) count = end - begin;
    if (count > job.seqlen - position) count = job.seqlen - position;
    block.Run(batch, position, count);
    begin += count;
  }
}

}  // namespace

void RopeRows(const RopeJob& job, int64_t begin, int64_t end) {
  switch (job.dtype) {
    case DType::kFloat32:
      return Positions<float>(job, begin, end);
    case DType::kFloat16:
      return Positions<Half>(job, begin, end);
    default:
      return Positions<BFloat16>(job, begin, end);
  }
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_ACTIVATION_CPU_ROPE_ROWS_IMPL_H_
