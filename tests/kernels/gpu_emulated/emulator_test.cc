// The emulator itself: what it computes, and the faults it must see.
#include "kernels/base/gpu/emulator/emulator.h"

#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/base/gpu/launch.h"
#include "kernels/base/gpu/pack.h"
#include "kernels/base/gpu/row_group.h"
#include "tests/kernels/gpu_emulated/emulated_testing.h"

namespace kpt::gpu {
namespace {

using emulated_testing::Context;

struct Params {
  float* out;
  int value;
};

// Empty when the kernel had no fault.
std::string Fault(void (*kernel)(Params), int threads, Params params = {}, int64_t blocks = 1) {
  return Launch("test", "kernel", kernel, blocks, threads, Context(), params).message();
}

void ExpectFault(const std::string& fault, const std::string& part) {
  EXPECT_NE(fault.find(part), std::string::npos) << "got: '" << fault << "'";
  EXPECT_NE(fault.find("test: kernel kernel"), std::string::npos) << fault;
}

KPT_KERNEL(256) WriteIndex(KPT_PARAMS(Params) p) {
  p.out[BlockIndex() * BlockThreads() + ThreadIndex()] =
      static_cast<float>(GridBlocks() * 1000 + ThreadIndex());
}

TEST(Emulator, EveryThreadOfEveryBlockRuns) {
  std::vector<float> out(3 * 128);
  EXPECT_EQ(Fault(WriteIndex, 128, {out.data(), 0}, 3), "");
  for (int i = 0; i < 3 * 128; ++i) EXPECT_EQ(out[static_cast<size_t>(i)], 3000 + i % 128);
}

KPT_KERNEL(256) Shuffle(KPT_PARAMS(Params) p) {
  p.out[ThreadIndex()] = ShuffleXor(static_cast<float>(ThreadIndex()), p.value);
}

TEST(Emulator, ShufflesStayWithinTheWave) {
  std::vector<float> out(128);
  EXPECT_EQ(Fault(Shuffle, 128, {out.data(), kWaveSize / 2 + 1}), "");
  for (int i = 0; i < 128; ++i) {
    EXPECT_EQ(out[static_cast<size_t>(i)], i ^ (kWaveSize / 2 + 1));
  }
  ExpectFault(Fault(Shuffle, 128, {out.data(), kWaveSize}), "out of the wave");
}

KPT_KERNEL(256) Reverse(KPT_PARAMS(Params) p) {
  KPT_SHARED(float, row, 128);
  row[ThreadIndex()] = static_cast<float>(ThreadIndex());
  if (p.value != 0) SyncBlock();
  p.out[ThreadIndex()] = row[127 - ThreadIndex()];
}

TEST(Emulator, SharedMemoryNeedsABarrier) {
  std::vector<float> out(128);
  EXPECT_EQ(Fault(Reverse, 128, {out.data(), 1}, 2), "");
  for (int i = 0; i < 128; ++i) EXPECT_EQ(out[static_cast<size_t>(i)], 127 - i);
  // Whichever thread comes first: it reads what is not there yet, or what another has just written.
  std::set<std::string> faults;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    emulator::SetSeed(seed);
    faults.insert(Fault(Reverse, 128, {out.data(), 0}));
  }
  for (const std::string& fault : faults) ExpectFault(fault, "of a shared array of 128 is read");
}

KPT_KERNEL(256) ReadThenWrite(KPT_PARAMS(Params) p) {
  KPT_SHARED(float, one, 1);
  if (ThreadIndex() == 0) one[0] = 1.0f;
  SyncBlock();
  p.out[ThreadIndex()] = one[0];
  if (ThreadIndex() == p.value) one[0] = 2.0f;
}

TEST(Emulator, WritingWhatOthersReadIsARace) {
  std::vector<float> out(64);
  ExpectFault(Fault(ReadThenWrite, 64, {out.data(), 5}), "a shared array of 1 is");
  EXPECT_EQ(Fault(ReadThenWrite, 64, {out.data(), -1}), "");
}

KPT_KERNEL(256) WriteTwice(KPT_PARAMS(Params)) {
  KPT_SHARED(float, one, 1);
  one[0] = 1.0f;
}

KPT_KERNEL(256) PastTheEnd(KPT_PARAMS(Params)) {
  KPT_SHARED(float, few, 4);
  few[ThreadIndex()] = 0.0f;
}

TEST(Emulator, SharedMemoryIsChecked) {
  ExpectFault(Fault(WriteTwice, 64), "written by two threads");
  ExpectFault(Fault(PastTheEnd, 64), "of a shared array of 4");
}

KPT_KERNEL(256) HalfAtTheBarrier(KPT_PARAMS(Params) p) {
  if (ThreadIndex() % 2 == p.value) SyncBlock();
}

KPT_KERNEL(256) PartedShuffle(KPT_PARAMS(Params)) {
  static_cast<void>(ShuffleXor(0.0f, ThreadIndex() % 2 == 0 ? 1 : 2));
}

KPT_KERNEL(256) BarrierOrShuffle(KPT_PARAMS(Params)) {
  if (ThreadIndex() % 2 == 0) {
    SyncBlock();
  } else {
    static_cast<void>(ShuffleXor(0.0f, 1));
  }
}

TEST(Emulator, ThreadsMustMeet) {
  ExpectFault(Fault(HalfAtTheBarrier, 64, {nullptr, 1}), "have left the kernel");
  EXPECT_EQ(Fault(HalfAtTheBarrier, 64, {nullptr, 2}), "");
  ExpectFault(Fault(PartedShuffle, 64), "part before a shuffle");
  for (uint32_t seed = 0; seed < 10; ++seed) {
    emulator::SetSeed(seed);
    EXPECT_NE(Fault(BarrierOrShuffle, 64), "");
  }
}

KPT_KERNEL(256) LoadAt(KPT_PARAMS(Params) p) {
  static_cast<void>(Load16(reinterpret_cast<const char*>(p.out) + p.value));
}

TEST(Emulator, WideAccessesAreAligned) {
  alignas(16) float data[16] = {};
  EXPECT_EQ(Fault(LoadAt, 64, {data, 16}), "");
  ExpectFault(Fault(LoadAt, 64, {data, 8}), "not a multiple of 16");
}

TEST(Emulator, LaunchesAreChecked) {
  ExpectFault(Fault(WriteTwice, 48), "a block of 48 threads");
  ExpectFault(Fault(WriteTwice, 2048), "a block of 2048 threads");
  ExpectFault(Fault(WriteTwice, 64, {}, 0), "a grid of 0 blocks");
}

struct GroupParams {
  float* out;
  int threads_per_row;
};

KPT_KERNEL(1024) Reduce(KPT_PARAMS(GroupParams) p) {
  KPT_SHARED(float, scratch, kReduceFloats<2>);
  RowGroup<2> group(p.threads_per_row, scratch);
  const float mine = static_cast<float>(ThreadIndex());
  float sums[2] = {mine, 1.0f};
  group.Sum(sums);
  // Several in a row, so that a buffer is used again.
  const float most = group.Max(mine);
  const float least = -group.Max(-mine);
  p.out[4 * ThreadIndex()] = sums[0];
  p.out[4 * ThreadIndex() + 1] = sums[1];
  p.out[4 * ThreadIndex() + 2] = most;
  p.out[4 * ThreadIndex() + 3] = least;
}

TEST(RowGroup, ReducesOverItsThreads) {
  for (int threads_per_row : {1, 2, 8, kWaveSize, 2 * kWaveSize, 5 * kWaveSize, 1024}) {
    const int threads = threads_per_row <= kWaveSize ? 4 * kWaveSize : threads_per_row;
    std::vector<float> out(static_cast<size_t>(4 * threads));
    const Status status = Launch("test", "kernel", Reduce, 1, threads, Context(),
                                 GroupParams{out.data(), threads_per_row});
    ASSERT_TRUE(status.ok()) << status.message();
    for (int t = 0; t < threads; ++t) {
      const float* got = out.data() + 4 * t;
      const float first = static_cast<float>(t / threads_per_row * threads_per_row);
      const float n = static_cast<float>(threads_per_row);
      EXPECT_EQ(got[0], n * first + n * (n - 1) / 2);
      EXPECT_EQ(got[1], n);
      EXPECT_EQ(got[2], first + n - 1);
      EXPECT_EQ(got[3], first);
    }
  }
}

}  // namespace
}  // namespace kpt::gpu
