// RowGroup: the threads that share a row, and the sums and maxima over them.
//
// A group is a power of two of at most a wave (several rows a block), or whole waves that fill
// their block (one row a block). A reduction adds in an order that depends on the group's size
// alone, and every thread of the group gets the same bits.
#ifndef KPT_KERNELS_BASE_GPU_ROW_GROUP_H_
#define KPT_KERNELS_BASE_GPU_ROW_GROUP_H_

#include "kernels/base/gpu/vendor.h"

namespace kpt::gpu {

// Shared floats that a RowGroup of kValues at a time needs.
template <int kValues>
inline constexpr int kReduceFloats = 2 * kValues * (kMaxBlockThreads / kWaveSize);

// KPT_SHARED(float, scratch, kReduceFloats<kValues>) goes in as `scratch`. Every thread of the
// block must make the same calls.
template <int kValues>
class RowGroup {
 public:
  KPT_DEVICE_MEMBER RowGroup(int threads_per_row, SharedPtr<float> scratch)
      : threads_(threads_per_row),
        lane_(ThreadIndex() % threads_per_row),
        row_in_block_(ThreadIndex() / threads_per_row),
        scratch_(scratch) {}

  KPT_DEVICE_MEMBER int threads() const { return threads_; }
  KPT_DEVICE_MEMBER int lane() const { return lane_; }
  KPT_DEVICE_MEMBER int row_in_block() const { return row_in_block_; }
  KPT_DEVICE_MEMBER int rows_per_block() const { return BlockThreads() / threads_; }

  // Of each of the values.
  template <int kCount>
  KPT_DEVICE_MEMBER void Sum(float (&values)[kCount]) {
    Reduce(values, [](float a, float b) { return a + b; });
  }
  KPT_DEVICE_MEMBER float Sum(float value) {
    float values[1] = {value};
    Sum(values);
    return values[0];
  }
  // May drop NaNs.
  template <int kCount>
  KPT_DEVICE_MEMBER void Max(float (&values)[kCount]) {
    Reduce(values, [](float a, float b) { return MaxOf(a, b); });
  }
  KPT_DEVICE_MEMBER float Max(float value) {
    float values[1] = {value};
    Max(values);
    return values[0];
  }

 private:
  template <int kCount, class F>
  KPT_DEVICE_MEMBER void Reduce(float (&values)[kCount], F f) {
    static_assert(kCount <= kValues);
    const int within = threads_ < kWaveSize ? threads_ : kWaveSize;
    for (int mask = within / 2; mask > 0; mask /= 2) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) values[i] = f(values[i], ShuffleXor(values[i], mask));
    }
    if (threads_ <= kWaveSize) return;
    // Two buffers in turn: by the time one is written again, every thread has passed the barrier of
    // the other, and so has read this one.
    const int waves = threads_ / kWaveSize;
    const int buffer = parity_ * kValues * (kMaxBlockThreads / kWaveSize);
    parity_ = 1 - parity_;
    if (ThreadIndex() % kWaveSize == 0) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        scratch_[buffer + i * waves + ThreadIndex() / kWaveSize] = values[i];
      }
    }
    SyncBlock();
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      values[i] = scratch_[buffer + i * waves];
      for (int w = 1; w < waves; ++w) values[i] = f(values[i], scratch_[buffer + i * waves + w]);
    }
  }

  int threads_;
  int lane_;
  int row_in_block_;
  int parity_ = 0;
  SharedPtr<float> scratch_;
};

}  // namespace kpt::gpu

#endif  // KPT_KERNELS_BASE_GPU_ROW_GROUP_H_
