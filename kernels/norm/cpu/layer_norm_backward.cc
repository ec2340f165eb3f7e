#include "kernels/norm/layer_norm_backward.h"

#include "kernels/norm/cpu/norm_backward_launch.h"

namespace kpt::cpu {

Status LayerNormBackward(const LaunchContext& ctx, const LayerNormBackwardArgs& args) {
  NormBackwardTensors t;
  t.grad_x = args.grad_x;
  t.grad_weight = args.grad_weight;
  t.grad_bias = args.grad_bias;
  t.grad_y = args.grad_y;
  t.x = args.x;
  t.weight = args.weight;
  t.bias = args.bias;
  t.grad_new_residual = args.grad_new_residual;
  return RunNormBackward("layer_norm_backward", ctx, t, args.eps, /*subtract_mean=*/true);
}

std::vector<VariantInfo> LayerNormBackwardVariants() { return ListVariants(kNormBackwardVariants); }

}  // namespace kpt::cpu
