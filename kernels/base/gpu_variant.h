// Variant tables of the GPU backends: as variant.h, with the device in the place of ISA levels.
#ifndef KPT_KERNELS_BASE_GPU_VARIANT_H_
#define KPT_KERNELS_BASE_GPU_VARIANT_H_

#include <cstring>
#include <string>
#include <vector>

#include "kernels/base/gpu_device.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"
#include "kernels/base/variant.h"

namespace kpt {

template <class Args>
struct GpuVariant {
  const char* name;  // unique within the op, for example "rows_warp"
  GpuTarget target;
  bool (*supports)(const LaunchContext&, const Args&);  // nullptr: every problem
  Status (*run)(const LaunchContext&, const Args&);
};

// Runs the first variant, best first, that the device runs, that force_variant does not rule out
// and that serves the problem. A context without a device has no variant.
template <class Args, int N>
Status RunFirst(const char* op, const GpuVariant<Args> (&variants)[N], const LaunchContext& ctx,
                const Args& args) {
  for (const GpuVariant<Args>& v : variants) {
    if (ctx.device == nullptr || !RunsOn(v.target, *ctx.device)) continue;
    if (ctx.force_variant != nullptr && std::strcmp(ctx.force_variant, v.name) != 0) continue;
    if (v.supports != nullptr && !v.supports(ctx, args)) continue;
    if (ctx.record != nullptr) ctx.record->variant = v.name;
    return v.run(ctx, args);
  }
  std::string why = std::string(op) + ": no native variant for this problem";
  if (ctx.device != nullptr) {
    why += " on compute capability " + std::to_string(ctx.device->major) + "." +
           std::to_string(ctx.device->minor);
  }
  if (ctx.force_variant != nullptr) why += std::string(" (forced: ") + ctx.force_variant + ")";
  return Status::Unimplemented(std::move(why));
}

template <class Args, int N>
std::vector<VariantInfo> ListVariants(const GpuVariant<Args> (&variants)[N]) {
  std::vector<VariantInfo> out;
  out.reserve(N);
  for (const GpuVariant<Args>& v : variants)
    out.push_back({v.name, Isa::kBaseline, Name(v.target)});
  return out;
}

}  // namespace kpt

#endif  // KPT_KERNELS_BASE_GPU_VARIANT_H_
