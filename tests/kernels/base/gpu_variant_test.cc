// Which variant runs on which GPU: decided from a description of the device, so none is needed.
#include "kernels/base/gpu_variant.h"

#include <gtest/gtest.h>

namespace kpt {
namespace {

struct Problem {
  int size;
};
bool Small(const LaunchContext&, const Problem& p) { return p.size < 10; }
Status Run(const LaunchContext&, const Problem&) { return Status(); }

constexpr GpuVariant<Problem> kVariants[] = {
    {"hopper", GpuTarget::kSm90a, nullptr, Run},
    {"blackwell", GpuTarget::kSm100a, nullptr, Run},
    {"rows", GpuTarget::kPortable, Small, Run},
};

const char* Chosen(int major, int minor, int size, const char* force, StatusCode want) {
  GpuDevice device;
  device.major = major;
  device.minor = minor;
  LaunchRecord record;
  LaunchContext ctx;
  ctx.device = &device;
  ctx.force_variant = force;
  ctx.record = &record;
  EXPECT_EQ(RunFirst("op", kVariants, ctx, Problem{size}).code(), want);
  return record.variant != nullptr ? record.variant : "none";
}

TEST(GpuVariant, FirstThatTheDeviceRuns) {
  EXPECT_STREQ(Chosen(9, 0, 100, nullptr, StatusCode::kOk), "hopper");
  EXPECT_STREQ(Chosen(9, 0, 5, "rows", StatusCode::kOk), "rows");
  EXPECT_STREQ(Chosen(10, 0, 100, nullptr, StatusCode::kOk), "blackwell");
  EXPECT_STREQ(Chosen(8, 0, 5, nullptr, StatusCode::kOk), "rows");
  EXPECT_STREQ(Chosen(12, 1, 5, nullptr, StatusCode::kOk), "rows");
}

TEST(GpuVariant, ArchitectureSpecificCodeRunsOnNoOther) {
  EXPECT_STREQ(Chosen(10, 3, 100, nullptr, StatusCode::kUnimplemented), "none");
  EXPECT_STREQ(Chosen(12, 0, 5, "hopper", StatusCode::kUnimplemented), "none");
  EXPECT_STREQ(Chosen(7, 5, 5, nullptr, StatusCode::kUnimplemented), "none");
}

TEST(GpuVariant, RefusalSaysWhy) {
  GpuDevice device;
  device.major = 7;
  device.minor = 5;
  LaunchContext ctx;
  ctx.device = &device;
  EXPECT_EQ(RunFirst("op", kVariants, ctx, Problem{1}).message(),
            "op: no native variant for this problem on compute capability 7.5");
  ctx.device = nullptr;
  ctx.force_variant = "rows";
  EXPECT_EQ(RunFirst("op", kVariants, ctx, Problem{1}).message(),
            "op: no native variant for this problem (forced: rows)");
}

TEST(GpuVariant, ListNamesTargets) {
  const auto list = ListVariants(kVariants);
  ASSERT_EQ(list.size(), 3u);
  EXPECT_STREQ(list[0].level, "sm_90a");
  EXPECT_STREQ(list[2].level, "portable");
}

}  // namespace
}  // namespace kpt
