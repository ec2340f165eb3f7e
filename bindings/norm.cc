// The norm family: layer_norm, rms_norm, add_layer_norm, add_rms_norm and the gradients.
#include <nanobind/nanobind.h>

#include <cstdint>

#include "bindings/base/call.h"
#include "bindings/families.h"
#include "kernels/norm/add_layer_norm.h"
#include "kernels/norm/add_rms_norm.h"
#include "kernels/norm/layer_norm.h"
#include "kernels/norm/layer_norm_backward.h"
#include "kernels/norm/rms_norm.h"
#include "kernels/norm/rms_norm_backward.h"
#if defined(KPT_BACKEND_IS_CUDA)
#include "kernels/norm/gpu/norm_backward.h"
#endif

namespace kpt::bindings {
namespace nb = nanobind;
namespace {

template <class Args>
using WorkspaceFn = int64_t (*)(const LaunchContext&, const Args&);

// What the sums over the rows need on a GPU; on the CPU kernels have scratch memory of their own.
#if defined(KPT_BACKEND_IS_CUDA)
constexpr WorkspaceFn<backend::LayerNormBackwardArgs> kLayerNormBackwardWorkspace =
    backend::LayerNormBackwardWorkspaceBytes;
constexpr WorkspaceFn<backend::RmsNormBackwardArgs> kRmsNormBackwardWorkspace =
    backend::RmsNormBackwardWorkspaceBytes;
#else
constexpr WorkspaceFn<backend::LayerNormBackwardArgs> kLayerNormBackwardWorkspace = nullptr;
constexpr WorkspaceFn<backend::RmsNormBackwardArgs> kRmsNormBackwardWorkspace = nullptr;
#endif

}  // namespace

void BindNorm(nb::module_& m) {
  AddVariants("layer_norm", backend::LayerNormVariants());
  m.def(
      "layer_norm",
      [](nb::handle out, nb::handle x, nb::handle weight, nb::handle bias, double eps) {
        Call call("layer_norm");
        backend::LayerNormArgs args;
        call.Output("out", out, &args.y);
        call.Input("x", x, &args.x);
        call.OptionalInput("weight", weight, &args.weight);
        call.OptionalInput("bias", bias, &args.bias);
        args.eps = static_cast<float>(eps);
        return call.Run(backend::LayerNorm, args);
      },
      nb::arg("out"), nb::arg("x"), nb::arg("weight").none(), nb::arg("bias").none(),
      nb::arg("eps"));

  AddVariants("rms_norm", backend::RmsNormVariants());
  m.def(
      "rms_norm",
      [](nb::handle out, nb::handle x, nb::handle weight, double eps) {
        Call call("rms_norm");
        backend::RmsNormArgs args;
        call.Output("out", out, &args.y);
        call.Input("x", x, &args.x);
        call.OptionalInput("weight", weight, &args.weight);
        args.eps = static_cast<float>(eps);
        return call.Run(backend::RmsNorm, args);
      },
      nb::arg("out"), nb::arg("x"), nb::arg("weight").none(), nb::arg("eps"));

  AddVariants("add_layer_norm", backend::AddLayerNormVariants());
  m.def(
      "add_layer_norm",
      [](nb::handle y, nb::handle new_residual, nb::handle x, nb::handle residual,
         nb::handle weight, nb::handle bias, double eps) {
        Call call("add_layer_norm");
        backend::AddLayerNormArgs args;
        call.Output("y", y, &args.y);
        call.Output("new_residual", new_residual, &args.new_residual);
        call.Input("x", x, &args.x);
        call.Input("residual", residual, &args.residual);
        call.OptionalInput("weight", weight, &args.weight);
        call.OptionalInput("bias", bias, &args.bias);
        args.eps = static_cast<float>(eps);
        return call.Run(backend::AddLayerNorm, args);
      },
      nb::arg("y"), nb::arg("new_residual"), nb::arg("x"), nb::arg("residual"),
      nb::arg("weight").none(), nb::arg("bias").none(), nb::arg("eps"));

  AddVariants("add_rms_norm", backend::AddRmsNormVariants());
  m.def(
      "add_rms_norm",
      [](nb::handle y, nb::handle new_residual, nb::handle x, nb::handle residual,
         nb::handle weight, double eps) {
        Call call("add_rms_norm");
        backend::AddRmsNormArgs args;
        call.Output("y", y, &args.y);
        call.Output("new_residual", new_residual, &args.new_residual);
        call.Input("x", x, &args.x);
        call.Input("residual", residual, &args.residual);
        call.OptionalInput("weight", weight, &args.weight);
        args.eps = static_cast<float>(eps);
        return call.Run(backend::AddRmsNorm, args);
      },
      nb::arg("y"), nb::arg("new_residual"), nb::arg("x"), nb::arg("residual"),
      nb::arg("weight").none(), nb::arg("eps"));

  // Which gradients are wanted shows in the outputs: the others are empty.
  AddVariants("layer_norm_backward", backend::LayerNormBackwardVariants());
  m.def(
      "layer_norm_backward",
      [](nb::handle grad_x, nb::handle grad_weight, nb::handle grad_bias, nb::handle grad_y,
         nb::handle x, nb::handle weight, nb::handle bias, double eps, nb::handle grad_new_residual,
         bool) {
        Call call("layer_norm_backward");
        backend::LayerNormBackwardArgs args;
        call.Output("grad_x", grad_x, &args.grad_x);
        call.Output("grad_weight", grad_weight, &args.grad_weight);
        call.Output("grad_bias", grad_bias, &args.grad_bias);
        call.Input("grad_y", grad_y, &args.grad_y);
        call.Input("x", x, &args.x);
        call.OptionalInput("weight", weight, &args.weight);
        call.OptionalInput("bias", bias, &args.bias);
        call.OptionalInput("grad_new_residual", grad_new_residual, &args.grad_new_residual);
        args.eps = static_cast<float>(eps);
        return call.Run(backend::LayerNormBackward, args, kLayerNormBackwardWorkspace);
      },
      nb::arg("grad_x"), nb::arg("grad_weight"), nb::arg("grad_bias"), nb::arg("grad_y"),
      nb::arg("x"), nb::arg("weight").none(), nb::arg("bias").none(), nb::arg("eps"),
      nb::arg("grad_new_residual").none(), nb::arg("weight_grad"));

  AddVariants("rms_norm_backward", backend::RmsNormBackwardVariants());
  m.def(
      "rms_norm_backward",
      [](nb::handle grad_x, nb::handle grad_weight, nb::handle grad_y, nb::handle x,
         nb::handle weight, double eps, nb::handle grad_new_residual, bool) {
        Call call("rms_norm_backward");
        backend::RmsNormBackwardArgs args;
        call.Output("grad_x", grad_x, &args.grad_x);
        call.Output("grad_weight", grad_weight, &args.grad_weight);
        call.Input("grad_y", grad_y, &args.grad_y);
        call.Input("x", x, &args.x);
        call.OptionalInput("weight", weight, &args.weight);
        call.OptionalInput("grad_new_residual", grad_new_residual, &args.grad_new_residual);
        args.eps = static_cast<float>(eps);
        return call.Run(backend::RmsNormBackward, args, kRmsNormBackwardWorkspace);
      },
      nb::arg("grad_x"), nb::arg("grad_weight"), nb::arg("grad_y"), nb::arg("x"),
      nb::arg("weight").none(), nb::arg("eps"), nb::arg("grad_new_residual").none(),
      nb::arg("weight_grad"));
}

}  // namespace kpt::bindings
