// The bounds that simd_math.h states, measured densely against double precision.
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/simd/probe.h"

namespace kpt::cpu {
namespace {

using K = ActivationKind;

constexpr double kInf = std::numeric_limits<double>::infinity();

double Phi(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double Sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }
double GeluTanh(double x) {
  return x * Sigmoid(2.0 * 0.7978845608028654 * (x + 0.044715 * x * x * x));
}
double GeluTanhGrad(double x) {
  const double s = Sigmoid(2.0 * 0.7978845608028654 * (x + 0.044715 * x * x * x));
  return s + x * s * (1 - s) * 2.0 * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
}

// Evenly spaced points of [lo, hi] and a few thousand around 0 of every magnitude.
std::vector<float> Points(float lo, float hi) {
  std::vector<float> x;
  constexpr int kCount = 2000000;
  for (int i = 0; i <= kCount; ++i) {
    x.push_back(lo + (hi - lo) * (static_cast<float>(i) / kCount));
  }
  for (int e = -40; e < 3; ++e) {
    for (int m = 0; m < 64; ++m) {
      const float v = std::ldexp(1.0f + static_cast<float>(m) / 64, e);
      if (v <= hi) x.push_back(v);
      if (-v >= lo) x.push_back(-v);
    }
  }
  return x;
}

struct Worst {
  double relative = 0.0, absolute = 0.0, excess = -kInf;
  float at = 0.0f;
};

// `allowed(x, exact)` is the error that the header grants.
Worst Measure(const std::vector<float>& x, const std::vector<float>& y,
              const std::function<double(double)>& exact,
              const std::function<double(double, double)>& allowed) {
  Worst w;
  for (size_t i = 0; i < x.size(); ++i) {
    const double want = exact(x[i]);
    const double error = std::fabs(y[i] - want);
    const double excess = error - allowed(x[i], want);
    w.absolute = std::fmax(w.absolute, error);
    if (want != 0.0) w.relative = std::fmax(w.relative, error / std::fabs(want));
    if (!(excess <= w.excess)) {
      w.excess = excess;
      w.at = x[i];
    }
  }
  return w;
}

constexpr double kUlp = 0x1p-23;

struct FunctionCase {
  ProbeFunction f;
  const char* name;
  float lo, hi;
  double (*exact)(double);
  double ulp, fast;
};

TEST(SimdMath, Functions) {
  const FunctionCase cases[] = {
      {ProbeFunction::kExp2, "exp2", -125, 126.9f, [](double x) { return std::exp2(x); }, 2,
       1.2e-4},
      {ProbeFunction::kExp, "exp", -86, 87, [](double x) { return std::exp(x); }, 2, 1.2e-4},
      {ProbeFunction::kSigmoid, "sigmoid", -86, 20, Sigmoid, 3, 2.5e-4},
      {ProbeFunction::kTanh, "tanh", -12, 12, [](double x) { return std::tanh(x); }, 4, 3e-4},
  };
  for (const FunctionCase& c : cases) {
    const std::vector<float> x = Points(c.lo, c.hi);
    std::vector<float> y(x.size());
    for (const Probe& p : Probes()) {
      for (bool fast : {false, true}) {
        p.function(c.f, fast, x.data(), y.data(), static_cast<int64_t>(x.size()));
        const double bound = fast ? c.fast : c.ulp * kUlp;
        const Worst w =
            Measure(x, y, c.exact, [=](double, double want) { return bound * std::fabs(want); });
        EXPECT_LE(w.excess, 0.0) << c.name << (fast ? " fast " : " ") << p.name << ": relative "
                                 << w.relative << " at " << w.at;
      }
    }
  }
}

struct KindCase {
  K kind;
  const char* name;
  double (*exact)(double);
  double (*grad)(double);
};

const KindCase kKinds[] = {
    {K::kRelu, "relu", [](double x) { return x > 0 ? x : 0.0; },
     [](double x) { return x > 0 ? 1.0 : 0.0; }},
    {K::kGelu, "gelu", [](double x) { return x * Phi(x); },
     [](double x) { return Phi(x) + x * 0.3989422804014327 * std::exp(-0.5 * x * x); }},
    {K::kGeluTanh, "gelu_tanh", GeluTanh, GeluTanhGrad},
    {K::kSilu, "silu", [](double x) { return x * Sigmoid(x); },
     [](double x) { return Sigmoid(x) * (1 + x * Sigmoid(-x)); }},
    {K::kSigmoid, "sigmoid", Sigmoid, [](double x) { return Sigmoid(x) * Sigmoid(-x); }},
    {K::kTanh, "tanh", [](double x) { return std::tanh(x); },
     [](double x) { return 1 - std::tanh(x) * std::tanh(x); }},
    {K::kQuickGelu, "quick_gelu", [](double x) { return x * Sigmoid(1.702 * x); },
     [](double x) {
       const double s = Sigmoid(1.702 * x);
       return s + 1.702 * x * s * Sigmoid(-1.702 * x);
     }},
};

TEST(SimdMath, Activations) {
  const std::vector<float> x = Points(-20, 20);
  std::vector<float> y(x.size());
  for (const KindCase& c : kKinds) {
    for (const Probe& p : Probes()) {
      for (bool fast : {false, true}) {
        p.activate(c.kind, fast, x.data(), y.data(), static_cast<int64_t>(x.size()));
        const auto allowed = [&](double v, double want) {
          if (c.kind == K::kRelu) return 0.0;
          if (c.kind == K::kGelu) {
            if (!fast) return 2e-7 + 2 * kUlp * std::fabs(want);
            return v > 0 ? 1.5e-4 * v : 7e-5;
          }
          return fast ? 1e-36 + 4e-4 * std::fabs(want) : 2e-7 + 4 * kUlp * std::fabs(want);
        };
        const Worst w = Measure(x, y, c.exact, allowed);
        EXPECT_LE(w.excess, 0.0) << c.name << (fast ? " fast " : " ") << p.name << ": excess at "
                                 << w.at << ", largest error " << w.absolute;
        p.grad(c.kind, fast, x.data(), y.data(), static_cast<int64_t>(x.size()));
        const Worst g = Measure(x, y, c.grad, [&](double, double want) {
          return (fast ? 1e-3 : 1e-6) * (1 + std::fabs(want));
        });
        EXPECT_LE(g.excess, 0.0) << c.name << " slope" << (fast ? " fast " : " ") << p.name
                                 << ": excess at " << g.at << ", largest error " << g.absolute;
      }
    }
  }
}

TEST(SimdMath, SpecialValues) {
  const float inf = std::numeric_limits<float>::infinity();
  // Quiet NaNs of either sign, also with a payload in the low bits.
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float odd_nan = std::nanf("0x12345");
  const float x[] = {nan, -nan, odd_nan, inf, -inf, 3e38f, -3e38f, 0.0f, -0.0f, 1e-44f, 200, -200};
  constexpr int kCount = sizeof(x) / sizeof(x[0]);
  float y[kCount];
  for (const Probe& p : Probes()) {
    for (bool fast : {false, true}) {
      for (const KindCase& c : kKinds) {
        p.activate(c.kind, fast, x, y, kCount);
        const std::string where = std::string(c.name) + (fast ? " fast " : " ") + p.name;
        for (int i = 0; i < 3; ++i) EXPECT_TRUE(std::isnan(y[i])) << where << " " << i;
        const bool bounded = c.kind == K::kSigmoid || c.kind == K::kTanh;
        EXPECT_EQ(y[3], bounded ? 1.0f : inf) << where;
        if (bounded || c.kind == K::kRelu) {
          EXPECT_EQ(y[4], c.kind == K::kTanh ? -1.0f : 0.0f) << where;
        } else {
          EXPECT_TRUE(std::isnan(y[4])) << where;  // infinity times zero, as in PyTorch
        }
        EXPECT_EQ(y[5], bounded ? 1.0f : 3e38f) << where;
        EXPECT_EQ(y[6], c.kind == K::kTanh ? -1.0f : 0.0f) << where;
        EXPECT_NEAR(y[7], c.kind == K::kSigmoid ? 0.5f : 0.0f, fast ? 1e-4 : 1e-7) << where;
        EXPECT_EQ(y[10], bounded ? 1.0f : 200.0f) << where;
        EXPECT_EQ(y[11], c.kind == K::kTanh ? -1.0f : 0.0f) << where;
        p.grad(c.kind, fast, x, y, kCount);
        if (c.kind != K::kRelu) {  // relu's slope selects
          for (int i = 0; i < 3; ++i) EXPECT_TRUE(std::isnan(y[i])) << where << " slope " << i;
        }
        EXPECT_NEAR(y[10], bounded ? 0.0f : 1.0f, 1e-6) << where;
        EXPECT_NEAR(y[11], 0.0f, 1e-6) << where;
      }
      const float t[] = {nan, odd_nan, -inf, -1000.0f, -150.0f, 0.0f, 126.0f, inf};
      float e[8];
      p.function(ProbeFunction::kExp2, fast, t, e, 8);
      EXPECT_TRUE(std::isnan(e[0]) && std::isnan(e[1])) << p.name;
      for (int i = 2; i < 5; ++i) EXPECT_EQ(e[i], 0.0f) << p.name;
      EXPECT_EQ(e[5], 1.0f);
      EXPECT_EQ(e[6], 0x1p126f);
      EXPECT_EQ(e[7], 0x1p127f);
    }
  }
}

}  // namespace
}  // namespace kpt::cpu
