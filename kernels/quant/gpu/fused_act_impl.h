// What makes the rows of fused_act_quantize. For two files, since its functions compile slowly.
#ifndef KPT_KERNELS_QUANT_GPU_FUSED_ACT_IMPL_H_
#define KPT_KERNELS_QUANT_GPU_FUSED_ACT_IMPL_H_

#include "kernels/base/gpu/math.h"
#include "kernels/quant/gpu/fused_impl.h"

namespace kpt::KPT_BACKEND {
namespace {

// The precise functions, whatever T: a row of small results gets a small scale, which would show a
// fixed error.
template <class T, bool kAligned>
class ActMaker {
 public:
  using U = Unit<T, kAligned>;
  static constexpr int kHeld = 2;

  KPT_DEVICE_MEMBER ActMaker(const GpuFusedJob& job, const int64_t (&at)[GpuFusedJob::kNumTensors])
      : job_(job), x_(static_cast<const T*>(job.x) + at[GpuFusedJob::kX]) {}

  template <class UnitOf, class Inside>
  KPT_DEVICE_MEMBER void LoadHeld(const UnitOf& unit_of, const Inside& inside,
                                  float (&v)[kHeld][kQuantUnit]) {
    SwitchKind(job_.kind, [&](auto kind) {
#pragma unroll
      for (int u = 0; u < kHeld; ++u) {
        if (inside(unit_of(u))) Make<decltype(kind)::value>(unit_of(u), v[u]);
      }
    });
  }
  KPT_DEVICE_MEMBER void Reload(int64_t unit, float (&v)[kQuantUnit]) {
    SwitchKind(job_.kind, [&](auto kind) { Make<decltype(kind)::value>(unit, v); });
  }
  KPT_DEVICE_MEMBER void Prepare(RowGroup<2>&, int64_t, bool, const float (&)[kHeld][kQuantUnit]) {}
  KPT_DEVICE_MEMBER void Finish(int64_t, float (&)[kQuantUnit]) {}

 private:
  template <ActivationKind kKind>
  KPT_DEVICE_MEMBER void Make(int64_t unit, float (&v)[kQuantUnit]) {
    const int64_t c = unit * kQuantUnit, left = job_.cols - c;
    U::Load(x_ + c, left).Widen(v);
    if (job_.gated) {
      float up[kQuantUnit];
      U::Load(x_ + job_.cols + c, left).Widen(up);
#pragma unroll
      for (int i = 0; i < kQuantUnit; ++i) v[i] = Activate<kKind, float>(v[i]) * up[i];
    } else {
#pragma unroll
      for (int i = 0; i < kQuantUnit; ++i) v[i] = Activate<kKind, float>(v[i]);
    }
#pragma unroll
    for (int i = 0; i < kQuantUnit; ++i) v[i] = kAligned || i < left ? v[i] : 0.0f;
  }

  const GpuFusedJob& job_;
  const T* x_;
};

template <class T, bool kAligned>
Status StartFusedAct(const LaunchContext& ctx, const GpuFusedJob& job) {
  return StartFused<ActMaker<T, kAligned>, T, kAligned>("fused_act_quantize", ctx, job);
}

}  // namespace
}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_QUANT_GPU_FUSED_ACT_IMPL_H_
