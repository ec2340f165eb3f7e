#include "kernels/base/scratch.h"

#include <cstdint>
#include <cstring>
#include <thread>

#include "gtest/gtest.h"

namespace kpt {
namespace {

uintptr_t Address(const void* p) { return reinterpret_cast<uintptr_t>(p); }

TEST(Scratch, AlignedAndWritable) {
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{63}, size_t{64}, size_t{4096}, size_t{1} << 20,
                       size_t{5} << 20}) {
    void* p = Scratch(0, bytes);
    ASSERT_NE(p, nullptr);
    EXPECT_EQ(Address(p) % 64, 0u);
    if (bytes >= (size_t{2} << 20)) {
      EXPECT_EQ(Address(p) % (size_t{2} << 20), 0u);
    }
    std::memset(p, 0x5a, bytes);
  }
}

TEST(Scratch, KeepsItsBufferUntilMoreIsAsked) {
  void* p = Scratch(1, 10000);
  EXPECT_EQ(Scratch(1, 10000), p);
  EXPECT_EQ(Scratch(1, 1), p);
  EXPECT_EQ(ScratchAs<float>(1, 100), p);
}

TEST(Scratch, SlotsAreApart) {
  char* p[kScratchSlots];
  for (int s = 0; s < kScratchSlots; ++s) p[s] = ScratchAs<char>(s, 1000);
  for (int s = 0; s < kScratchSlots; ++s) std::memset(p[s], s, 1000);
  for (int s = 0; s < kScratchSlots; ++s) {
    for (int i = 0; i < 1000; ++i) ASSERT_EQ(p[s][i], s);
  }
}

TEST(Scratch, ThreadsAreApart) {
  char* mine = ScratchAs<char>(2, 5000);
  std::memset(mine, 1, 5000);
  char* theirs = nullptr;
  std::thread([&] {
    theirs = ScratchAs<char>(2, 5000);
    EXPECT_NE(theirs, mine);
    std::memset(theirs, 2, 5000);
    EXPECT_EQ(ScratchAs<char>(2, 5000), theirs);
  }).join();
  for (int i = 0; i < 5000; ++i) ASSERT_EQ(mine[i], 1);
}

TEST(Scratch, NoMemoryGivesNull) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's allocator ends the process instead";
#endif
  EXPECT_EQ(Scratch(3, size_t{1} << 60), nullptr);
  EXPECT_NE(Scratch(3, 100), nullptr);  // and recovers
}

}  // namespace
}  // namespace kpt
