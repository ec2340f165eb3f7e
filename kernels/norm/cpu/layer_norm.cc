#include "kernels/norm/layer_norm.h"

#include "kernels/norm/cpu/norm_launch.h"

namespace kpt::cpu {

Status LayerNorm(const LaunchContext& ctx, const LayerNormArgs& args) {
  NormTensors t;
  t.y = args.y;
  t.x = args.x;
  t.weight = args.weight;
  t.bias = args.bias;
  return RunNorm("layer_norm", ctx, t, args.eps, /*subtract_mean=*/true);
}

std::vector<VariantInfo> LayerNormVariants() { return ListVariants(kNormVariants); }

}  // namespace kpt::cpu
