// ParallelFor over an OpenMP runtime that is loaded at run time, as torch's is. KPT_TEST_OPENMP
// names the runtime.
#include "kernels/base/parallel_for.h"

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <set>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/base/scratch.h"

namespace kpt {
namespace {

bool LoadRuntime() {
  const char* path = std::getenv("KPT_TEST_OPENMP");
  return path != nullptr && dlopen(path, RTLD_NOW | RTLD_GLOBAL) != nullptr;
}

// Runs before the runtime is loaded; gtest keeps the order of definition.
TEST(ParallelForAlone, RunsSeriallyWithoutARuntime) {
  EXPECT_EQ(MaxThreads(), 1);
  int64_t sum = 0;
  ParallelFor(4, 100, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sum += i;
  });
  EXPECT_EQ(sum, 4950);
}

class ParallelForTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!LoadRuntime()) GTEST_SKIP() << "no OpenMP runtime: " << std::getenv("KPT_TEST_OPENMP");
  }
};

TEST_F(ParallelForTest, EveryItemExactlyOnce) {
  for (int threads : {1, 2, 3, 4, 7}) {
    for (int64_t n : {0, 1, 2, 3, 5, 16, 17, 100, 1001}) {
      for (int64_t grain : {-1, 0, 1, 2, 10, 5000}) {
        std::vector<std::atomic<int>> seen(n);
        ParallelFor(threads, n, grain, [&](int64_t begin, int64_t end) {
          ASSERT_LT(begin, end);
          for (int64_t i = begin; i < end; ++i) seen[i].fetch_add(1);
        });
        for (int64_t i = 0; i < n; ++i) ASSERT_EQ(seen[i].load(), 1) << threads << " " << n;
      }
    }
  }
}

TEST_F(ParallelForTest, PlainWritesMeetAtTheEnd) {
  std::vector<int> values(10000, 0);  // no atomics: ThreadSanitizer judges
  for (int round = 1; round <= 20; ++round) {
    ParallelFor(4, static_cast<int64_t>(values.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) values[i] += round;
    });
    int64_t sum = 0;
    for (int v : values) sum += v;
    ASSERT_EQ(sum, 10000LL * round * (round + 1) / 2);
  }
}

TEST_F(ParallelForTest, UsesTheThreadsAskedFor) {
  std::atomic<int> calls{0};
  std::atomic<int> all{0};
  Parallel(3, [&](int thread, int threads) {
    EXPECT_LT(thread, threads);
    calls.fetch_add(1);
    all.store(threads);
  });
  EXPECT_EQ(calls.load(), all.load());
  EXPECT_EQ(all.load(), 3);
  EXPECT_GE(MaxThreads(), 1);
}

TEST_F(ParallelForTest, GrainLimitsTheThreads) {
  std::atomic<int> calls{0};
  ParallelFor(4, 100, 60, [&](int64_t begin, int64_t end) {
    EXPECT_GE(end - begin, 40);
    calls.fetch_add(1);
  });
  EXPECT_EQ(calls.load(), 2);
  calls = 0;
  ParallelFor(4, 100, 100, [&](int64_t, int64_t) { calls.fetch_add(1); });
  EXPECT_EQ(calls.load(), 1);
}

TEST_F(ParallelForTest, HugeCountsDoNotOverflow) {
  std::atomic<int64_t> covered{0};
  ParallelFor(4, int64_t{1} << 62, 1,
              [&](int64_t begin, int64_t end) { covered.fetch_add(end - begin); });
  EXPECT_EQ(covered.load(), int64_t{1} << 62);
}

TEST_F(ParallelForTest, InsideAnotherRegionRunsSerially) {
  std::atomic<int> inner{0};
  Parallel(2, [&](int, int threads) {
    if (threads < 2) return;
    EXPECT_EQ(MaxThreads(), 1);
    std::thread::id self = std::this_thread::get_id();
    ParallelFor(4, 100, 1, [&](int64_t begin, int64_t end) {
      EXPECT_EQ(std::this_thread::get_id(), self);
      inner.fetch_add(static_cast<int>(end - begin));
    });
  });
  EXPECT_EQ(inner.load(), 200);
}

TEST_F(ParallelForTest, TwoCallersAtOnce) {
  const auto work = [] {
    for (int round = 0; round < 20; ++round) {
      std::vector<int> values(1000, 0);
      ParallelFor(2, 1000, 1, [&](int64_t begin, int64_t end) {
        int* scratch = ScratchAs<int>(0, 1000);
        for (int64_t i = begin; i < end; ++i) scratch[i] = static_cast<int>(i);
        for (int64_t i = begin; i < end; ++i) values[i] = scratch[i];
      });
      for (int i = 0; i < 1000; ++i) ASSERT_EQ(values[i], i);
    }
  };
  std::thread a(work), b(work);
  a.join();
  b.join();
}

TEST_F(ParallelForTest, AForkedChildRunsSerially) {
  Parallel(2, [](int, int) {});  // the pool exists
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(20);  // a hang would otherwise outlive the test
    int64_t sum = 0;
    ParallelFor(4, 100, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sum += i;
    });
    _exit(sum == 4950 && MaxThreads() == 1 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  std::atomic<int> calls{0};
  Parallel(2, [&](int, int) { calls.fetch_add(1); });  // the parent goes on as before
  EXPECT_EQ(calls.load(), 2);
}

}  // namespace
}  // namespace kpt
