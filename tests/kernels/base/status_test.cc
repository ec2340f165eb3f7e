#include "kernels/base/status.h"

#include "gtest/gtest.h"
#include "kernels/base/activation_kind.h"
#include "kernels/base/dtype.h"
#include "kernels/base/variant.h"

namespace kpt {
namespace {

TEST(Status, CarriesCodeAndMessage) {
  EXPECT_TRUE(Status().ok());
  const Status s = Status::InvalidArgument("op: bad");
  EXPECT_FALSE(s.ok());
  EXPECT_EQ(s.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(s.message(), "op: bad");
  EXPECT_EQ(Status::TypeError("").code(), StatusCode::kTypeError);
  EXPECT_EQ(Status::Unimplemented("").code(), StatusCode::kUnimplemented);
  EXPECT_EQ(Status::ResourceExhausted("").code(), StatusCode::kResourceExhausted);
}

Status FailsFirst(bool fail, int* reached) {
  KPT_RETURN_IF_ERROR(fail ? Status::TypeError("x") : Status());
  ++*reached;
  return Status();
}

TEST(Status, ReturnIfErrorStops) {
  int reached = 0;
  EXPECT_EQ(FailsFirst(true, &reached).code(), StatusCode::kTypeError);
  EXPECT_EQ(reached, 0);
  EXPECT_TRUE(FailsFirst(false, &reached).ok());
  EXPECT_EQ(reached, 1);
}

TEST(DType, SizesAndNames) {
  EXPECT_EQ(ItemSize(DType::kFloat64), 8);
  EXPECT_EQ(ItemSize(DType::kFloat32), 4);
  EXPECT_EQ(ItemSize(DType::kBFloat16), 2);
  EXPECT_EQ(ItemSize(DType::kFloat16), 2);
  EXPECT_EQ(ItemSize(DType::kFloat8E5M2), 1);
  EXPECT_EQ(ItemSize(DType::kInt64), 8);
  EXPECT_EQ(ItemSize(DType::kInt32), 4);
  EXPECT_EQ(ItemSize(DType::kBool), 1);
  EXPECT_STREQ(Name(DType::kFloat8E4M3FNUZ), "float8_e4m3fnuz");
  EXPECT_STREQ(Name(DType::kBFloat16), "bfloat16");
}

TEST(ActivationKind, Parses) {
  ActivationKind kind = ActivationKind::kTanh;
  EXPECT_FALSE(ParseActivationKind("GELU", &kind));
  EXPECT_EQ(kind, ActivationKind::kTanh);
  EXPECT_TRUE(ParseActivationKind("gelu_tanh", &kind));
  EXPECT_EQ(kind, ActivationKind::kGeluTanh);
  EXPECT_TRUE(ParseActivationKind("swiglu", &kind));
  EXPECT_TRUE(IsGated(kind));
  EXPECT_FALSE(IsGated(ActivationKind::kSilu));
}

struct Problem {
  int size;
};
bool Small(const LaunchContext&, const Problem& p) { return p.size < 10; }
Status RunFast(const LaunchContext&, const Problem&) { return Status(); }
Status RunFails(const LaunchContext&, const Problem&) { return Status::ResourceExhausted("no"); }

constexpr Variant<Problem> kVariants[] = {
    {"tiles", Isa::kAmx, nullptr, RunFast},
    {"small", Isa::kAvx2, Small, RunFast},
    {"wide", Isa::kAvx2, nullptr, RunFails},
    {"plain", Isa::kBaseline, Small, RunFast},
};

const char* Chosen(Isa isa, int size, const char* force, StatusCode want) {
  LaunchRecord record;
  LaunchContext ctx;
  ctx.isa = isa;
  ctx.force_variant = force;
  ctx.record = &record;
  EXPECT_EQ(RunFirst("op", kVariants, ctx, Problem{size}).code(), want);
  return record.variant != nullptr ? record.variant : "none";
}

TEST(Variant, FirstThatFits) {
  EXPECT_STREQ(Chosen(Isa::kAmx, 100, nullptr, StatusCode::kOk), "tiles");
  EXPECT_STREQ(Chosen(Isa::kAvx512, 5, nullptr, StatusCode::kOk), "small");
  EXPECT_STREQ(Chosen(Isa::kAvx512, 50, nullptr, StatusCode::kResourceExhausted), "wide");
  EXPECT_STREQ(Chosen(Isa::kBaseline, 5, nullptr, StatusCode::kOk), "plain");
  EXPECT_STREQ(Chosen(Isa::kBaseline, 50, nullptr, StatusCode::kUnimplemented), "none");
  EXPECT_STREQ(Chosen(Isa::kAmx, 5, "plain", StatusCode::kOk), "plain");
  EXPECT_STREQ(Chosen(Isa::kAvx2, 5, "tiles", StatusCode::kUnimplemented), "none");
}

TEST(Variant, RefusalSaysWhy) {
  LaunchContext ctx;
  ctx.isa = Isa::kBaseline;
  ctx.force_variant = "tiles";
  EXPECT_EQ(RunFirst("op", kVariants, ctx, Problem{1}).message(),
            "op: no native variant for this problem at ISA level baseline (forced: tiles)");
  EXPECT_EQ(ListVariants(kVariants).size(), 4u);
  EXPECT_STREQ(ListVariants(kVariants)[1].name, "small");
}

}  // namespace
}  // namespace kpt
