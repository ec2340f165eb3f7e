// What a tensor map can describe is checked before the driver is asked; without a driver, making
// one says so.
#include "kernels/base/cuda/tensor_map.h"

#include <gtest/gtest.h>

#include <string>

#include "kernels/base/cuda/runtime.h"

namespace kpt::cuda {
namespace {

TensorMapSpec Good() {
  TensorMapSpec spec;
  spec.data = reinterpret_cast<const void*>(uintptr_t{0x1000});
  spec.dtype = DType::kBFloat16;
  spec.size[0] = 100;
  spec.size[1] = 7;
  spec.stride[0] = 1;
  spec.stride[1] = 104;
  spec.box[0] = 64;
  spec.box[1] = 128;
  return spec;
}

void ExpectRefused(const TensorMapSpec& spec, const std::string& what) {
  const Status status = CheckTensorMap("op", "q", spec);
  EXPECT_FALSE(status.ok()) << what;
  EXPECT_EQ(status.message().rfind("op: argument 'q' ", 0), 0u) << status.message();
  EXPECT_NE(status.message().find(what), std::string::npos) << status.message();
}

TEST(TensorMap, Accepts) {
  EXPECT_TRUE(CheckTensorMap("op", "q", Good()).ok());
  TensorMapSpec spec = Good();
  spec.dtype = DType::kFloat8E4M3FN;
  spec.stride[1] = 112;
  spec.box[0] = 128;
  EXPECT_TRUE(CheckTensorMap("op", "q", spec).ok());
  spec = Good();
  spec.swizzle = Swizzle::kNone;
  spec.box[0] = 256;
  EXPECT_TRUE(CheckTensorMap("op", "q", spec).ok());
  spec = Good();
  spec.stride[1] = 0;  // a broadcast row
  EXPECT_TRUE(CheckTensorMap("op", "q", spec).ok());
}

TEST(TensorMap, Refuses) {
  TensorMapSpec spec = Good();
  spec.data = reinterpret_cast<const void*>(uintptr_t{0x1008});
  ExpectRefused(spec, "16-byte aligned");
  spec = Good();
  spec.stride[1] = 100;
  ExpectRefused(spec, "got 200 bytes");
  spec = Good();
  spec.stride[1] = int64_t{1} << 40;
  ExpectRefused(spec, "below 2^40");
  spec = Good();
  spec.stride[0] = 2;
  ExpectRefused(spec, "dense innermost");
  spec = Good();
  spec.size[1] = 0;
  ExpectRefused(spec, "got 0");
  spec = Good();
  spec.size[1] = (int64_t{1} << 32) + 1;
  ExpectRefused(spec, "1 to 2^32");
  spec = Good();
  spec.box[1] = 257;
  ExpectRefused(spec, "box of 257");
  spec = Good();
  spec.box[0] = 4;
  ExpectRefused(spec, "box of 8 bytes");
  spec = Good();
  spec.swizzle = Swizzle::k64;
  ExpectRefused(spec, "wider than the swizzle's 64");
  spec = Good();
  spec.rank = 6;
  ExpectRefused(spec, "1 to 5 dimensions");
  spec = Good();
  spec.dtype = DType::kBool;
  ExpectRefused(spec, "has dtype bool");
}

TEST(Runtime, WithoutAGpuItSaysWhy) {
  std::string why;
  if (DeviceCount(&why) > 0) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_FALSE(why.empty());
  CUtensorMap map;
  const Status encoded = MakeTensorMap("op", "q", Good(), &map);
  EXPECT_EQ(encoded.code(), StatusCode::kDeviceError);
  EXPECT_EQ(encoded.message().rfind("op: ", 0), 0u) << encoded.message();
  const GpuDevice* device = nullptr;
  const Status found = FindDevice("op", 0, &device);
  EXPECT_EQ(found.code(), StatusCode::kDeviceError);
  EXPECT_NE(found.message().find("CUDA device 0"), std::string::npos) << found.message();
  EXPECT_EQ(FindDevice("op", -1, &device).code(), StatusCode::kDeviceError);
  EXPECT_NE(DeviceGuard(0).error(), cudaSuccess);
}

}  // namespace
}  // namespace kpt::cuda
