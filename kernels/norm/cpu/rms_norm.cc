#include "kernels/norm/rms_norm.h"

#include "kernels/norm/cpu/norm_launch.h"

namespace kpt::cpu {

Status RmsNorm(const LaunchContext& ctx, const RmsNormArgs& args) {
  NormTensors t;
  t.y = args.y;
  t.x = args.x;
  t.weight = args.weight;
  return RunNorm("rms_norm", ctx, t, args.eps, /*subtract_mean=*/false);
}

std::vector<VariantInfo> RmsNormVariants() { return ListVariants(kNormVariants); }

}  // namespace kpt::cpu
