// GetProbe, for the instruction set that the including file is compiled for.
#ifndef KPT_TESTS_KERNELS_SIMD_PROBE_IMPL_H_
#define KPT_TESTS_KERNELS_SIMD_PROBE_IMPL_H_

#include "kernels/base/simd_io.h"
#include "kernels/base/simd_math.h"
#include "tests/kernels/simd/probe.h"

#define KPT_STRING(x) #x
#define KPT_NAME(x) KPT_STRING(x)

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {
namespace {

template <bool kFast>
void FunctionOf(ProbeFunction f, const float* x, float* y, int64_t n) {
  switch (f) {
    case ProbeFunction::kExp2:
      return MapRow<false>([](FloatVec v) HWY_ATTR { return Exp2<kFast>(v); }, n, y, x);
    case ProbeFunction::kExp:
      return MapRow<false>([](FloatVec v) HWY_ATTR { return ExpBelowMax<kFast>(v); }, n, y, x);
    case ProbeFunction::kSigmoid:
      return MapRow<false>([](FloatVec v) HWY_ATTR { return Sigmoid<kFast>(v); }, n, y, x);
    case ProbeFunction::kTanh:
      return MapRow<false>([](FloatVec v) HWY_ATTR { return Tanh<kFast>(v); }, n, y, x);
  }
}
void Function(ProbeFunction f, bool fast, const float* x, float* y, int64_t n) {
  fast ? FunctionOf<true>(f, x, y, n) : FunctionOf<false>(f, x, y, n);
}

template <bool kFast>
void ActivateOf(ActivationKind kind, const float* x, float* y, int64_t n) {
  SwitchKind(kind, [&](auto k) {
    MapRow<false>([](FloatVec v) HWY_ATTR { return Activate<decltype(k)::value, kFast>(v); }, n, y,
                  x);
  });
}
void ActivateAny(ActivationKind kind, bool fast, const float* x, float* y, int64_t n) {
  fast ? ActivateOf<true>(kind, x, y, n) : ActivateOf<false>(kind, x, y, n);
}

template <bool kFast>
void GradOf(ActivationKind kind, const float* x, float* y, int64_t n) {
  SwitchKind(kind, [&](auto k) {
    MapRow<false>([](FloatVec v)
                      HWY_ATTR { return Backpropagate<decltype(k)::value, kFast>(Set(1.0f), v); },
                  n, y, x);
  });
}
void GradAny(ActivationKind kind, bool fast, const float* x, float* y, int64_t n) {
  fast ? GradOf<true>(kind, x, y, n) : GradOf<false>(kind, x, y, n);
}

template <class To, class From>
void Convert(const void* x, void* y, int64_t n, bool stream) {
  const auto same = [](FloatVec v) HWY_ATTR { return v; };
  const From* from = static_cast<const From*>(x);
  To* to = static_cast<To*>(y);
  stream ? MapRow<true>(same, n, to, from) : MapRow<false>(same, n, to, from);
}

}  // namespace

Probe GetProbe() {
  Probe p;
  p.name = KPT_NAME(KPT_SIMD_NS);
  p.function = Function;
  p.activate = ActivateAny;
  p.grad = GradAny;
  p.from_half = [](const uint16_t* x, float* y, int64_t n) {
    Convert<float, Half>(x, y, n, false);
  };
  p.to_half = [](const float* x, uint16_t* y, int64_t n, bool stream) {
    Convert<Half, float>(x, y, n, stream);
  };
  p.from_bf16 = [](const uint16_t* x, float* y, int64_t n) {
    Convert<float, BFloat16>(x, y, n, false);
  };
  p.to_bf16 = [](const float* x, uint16_t* y, int64_t n, bool stream) {
    Convert<BFloat16, float>(x, y, n, stream);
  };
  p.copy = [](const float* x, float* y, int64_t n, bool stream) {
    Convert<float, float>(x, y, n, stream);
  };
  return p;
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_TESTS_KERNELS_SIMD_PROBE_IMPL_H_
