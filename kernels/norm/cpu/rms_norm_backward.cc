#include "kernels/norm/rms_norm_backward.h"

#include "kernels/norm/cpu/norm_backward_launch.h"

namespace kpt::cpu {

Status RmsNormBackward(const LaunchContext& ctx, const RmsNormBackwardArgs& args) {
  NormBackwardTensors t;
  t.grad_x = args.grad_x;
  t.grad_weight = args.grad_weight;
  t.grad_y = args.grad_y;
  t.x = args.x;
  t.weight = args.weight;
  t.grad_new_residual = args.grad_new_residual;
  return RunNormBackward("rms_norm_backward", ctx, t, args.eps, /*subtract_mean=*/false);
}

std::vector<VariantInfo> RmsNormBackwardVariants() { return ListVariants(kNormBackwardVariants); }

}  // namespace kpt::cpu
