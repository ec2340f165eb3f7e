#include "kernels/norm/add_layer_norm.h"

#include "kernels/norm/cpu/norm_launch.h"

namespace kpt::cpu {

Status AddLayerNorm(const LaunchContext& ctx, const AddLayerNormArgs& args) {
  NormTensors t;
  t.y = args.y;
  t.new_residual = args.new_residual;
  t.x = args.x;
  t.residual = args.residual;
  t.weight = args.weight;
  t.bias = args.bias;
  return RunNorm("add_layer_norm", ctx, t, args.eps, /*subtract_mean=*/true);
}

std::vector<VariantInfo> AddLayerNormVariants() { return ListVariants(kNormVariants); }

}  // namespace kpt::cpu
