#include "kernels/norm/add_rms_norm.h"

#include "kernels/norm/cpu/norm_launch.h"

namespace kpt::cpu {

Status AddRmsNorm(const LaunchContext& ctx, const AddRmsNormArgs& args) {
  NormTensors t;
  t.y = args.y;
  t.new_residual = args.new_residual;
  t.x = args.x;
  t.residual = args.residual;
  t.weight = args.weight;
  return RunNorm("add_rms_norm", ctx, t, args.eps, /*subtract_mean=*/false);
}

std::vector<VariantInfo> AddRmsNormVariants() { return ListVariants(kNormVariants); }

}  // namespace kpt::cpu
