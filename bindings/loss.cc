// The loss family: cross_entropy and linear_cross_entropy, their forms with lse, their backwards.
#include <nanobind/nanobind.h>

#include <string>

#include "bindings/base/call.h"
#include "bindings/families.h"
#include "kernels/gemm/linear_cross_entropy.h"
#include "kernels/gemm/linear_cross_entropy_backward.h"
#include "kernels/loss/cross_entropy.h"
#include "kernels/loss/cross_entropy_backward.h"

namespace kpt::bindings {
namespace nb = nanobind;
namespace {

CrossEntropyOptions OptionsOf(const char* op, int64_t ignore_index, double label_smoothing,
                              double z_loss, const char* reduction) {
  CrossEntropyOptions options;
  options.ignore_index = ignore_index;
  options.label_smoothing = static_cast<float>(label_smoothing);
  options.z_loss = static_cast<float>(z_loss);
  if (!ParseReduction(reduction, &options.reduction)) {
    throw nb::value_error((std::string(op) + ": argument 'reduction' must be one of " +
                           kReductions + ", got '" + reduction + "'")
                              .c_str());
  }
  return options;
}

}  // namespace

void BindLoss(nb::module_& m) {
  AddVariants("cross_entropy", cpu::CrossEntropyVariants());
  m.def(
      "cross_entropy",
      [](nb::handle loss, nb::handle logits, nb::handle target, int64_t ignore_index,
         double label_smoothing, double z_loss, const char* reduction) {
        Call call("cross_entropy");
        cpu::CrossEntropyArgs args;
        call.Output("loss", loss, &args.loss);
        call.Input("logits", logits, &args.logits);
        call.Input("target", target, &args.target, Layout::kAny);
        args.options = OptionsOf(args.op, ignore_index, label_smoothing, z_loss, reduction);
        return call.Run(cpu::CrossEntropy, args);
      },
      nb::arg("loss"), nb::arg("logits"), nb::arg("target"), nb::arg("ignore_index"),
      nb::arg("label_smoothing"), nb::arg("z_loss"), nb::arg("reduction"));

  AddVariants("cross_entropy_forward", cpu::CrossEntropyVariants());
  m.def(
      "cross_entropy_forward",
      [](nb::handle loss, nb::handle lse, nb::handle logits, nb::handle target,
         int64_t ignore_index, double label_smoothing, double z_loss, const char* reduction) {
        Call call("cross_entropy_forward");
        cpu::CrossEntropyArgs args;
        args.op = "cross_entropy_forward";
        call.Output("loss", loss, &args.loss);
        call.Output("lse", lse, &args.lse);
        call.Input("logits", logits, &args.logits);
        call.Input("target", target, &args.target, Layout::kAny);
        args.options = OptionsOf(args.op, ignore_index, label_smoothing, z_loss, reduction);
        return call.Run(cpu::CrossEntropy, args);
      },
      nb::arg("loss"), nb::arg("lse"), nb::arg("logits"), nb::arg("target"),
      nb::arg("ignore_index"), nb::arg("label_smoothing"), nb::arg("z_loss"), nb::arg("reduction"));

  AddVariants("cross_entropy_backward", cpu::CrossEntropyBackwardVariants());
  m.def(
      "cross_entropy_backward",
      [](nb::handle grad_logits, nb::handle logits, nb::handle target, nb::handle lse,
         nb::handle grad_loss, nb::handle grad_lse, int64_t ignore_index, double label_smoothing,
         double z_loss, const char* reduction) {
        Call call("cross_entropy_backward");
        cpu::CrossEntropyBackwardArgs args;
        call.Output("grad_logits", grad_logits, &args.grad_logits);
        call.Input("logits", logits, &args.logits);
        call.Input("target", target, &args.target, Layout::kAny);
        call.Input("lse", lse, &args.lse);
        call.Input("grad_loss", grad_loss, &args.grad_loss);
        call.Input("grad_lse", grad_lse, &args.grad_lse);
        args.options =
            OptionsOf("cross_entropy_backward", ignore_index, label_smoothing, z_loss, reduction);
        return call.Run(cpu::CrossEntropyBackward, args);
      },
      nb::arg("grad_logits"), nb::arg("logits"), nb::arg("target"), nb::arg("lse"),
      nb::arg("grad_loss"), nb::arg("grad_lse"), nb::arg("ignore_index"),
      nb::arg("label_smoothing"), nb::arg("z_loss"), nb::arg("reduction"));

  AddVariants("linear_cross_entropy", cpu::LinearCrossEntropyVariants());
  m.def(
      "linear_cross_entropy",
      [](nb::handle loss, nb::handle hidden, nb::handle weight, nb::handle target,
         int64_t ignore_index, double label_smoothing, double z_loss, const char* reduction) {
        Call call("linear_cross_entropy");
        cpu::LinearCrossEntropyArgs args;
        call.Output("loss", loss, &args.loss);
        call.Input("hidden", hidden, &args.hidden);
        call.Input("weight", weight, &args.weight);
        call.Input("target", target, &args.target, Layout::kAny);
        args.options = OptionsOf(args.op, ignore_index, label_smoothing, z_loss, reduction);
        return call.Run(cpu::LinearCrossEntropy, args);
      },
      nb::arg("loss"), nb::arg("hidden"), nb::arg("weight"), nb::arg("target"),
      nb::arg("ignore_index"), nb::arg("label_smoothing"), nb::arg("z_loss"), nb::arg("reduction"));

  AddVariants("linear_cross_entropy_forward", cpu::LinearCrossEntropyVariants());
  m.def(
      "linear_cross_entropy_forward",
      [](nb::handle loss, nb::handle lse, nb::handle hidden, nb::handle weight, nb::handle target,
         int64_t ignore_index, double label_smoothing, double z_loss, const char* reduction) {
        Call call("linear_cross_entropy_forward");
        cpu::LinearCrossEntropyArgs args;
        args.op = "linear_cross_entropy_forward";
        call.Output("loss", loss, &args.loss);
        call.Output("lse", lse, &args.lse);
        call.Input("hidden", hidden, &args.hidden);
        call.Input("weight", weight, &args.weight);
        call.Input("target", target, &args.target, Layout::kAny);
        args.options = OptionsOf(args.op, ignore_index, label_smoothing, z_loss, reduction);
        return call.Run(cpu::LinearCrossEntropy, args);
      },
      nb::arg("loss"), nb::arg("lse"), nb::arg("hidden"), nb::arg("weight"), nb::arg("target"),
      nb::arg("ignore_index"), nb::arg("label_smoothing"), nb::arg("z_loss"), nb::arg("reduction"));

  AddVariants("linear_cross_entropy_backward", cpu::LinearCrossEntropyBackwardVariants());
  m.def(
      "linear_cross_entropy_backward",
      [](nb::handle grad_hidden, nb::handle grad_weight, nb::handle hidden, nb::handle weight,
         nb::handle target, nb::handle lse, nb::handle grad_loss, nb::handle grad_lse,
         int64_t ignore_index, double label_smoothing, double z_loss, const char* reduction,
         bool want_hidden, bool want_weight) {
        constexpr const char* kOp = "linear_cross_entropy_backward";
        Call call(kOp);
        cpu::LinearCrossEntropyBackwardArgs args;
        if (want_hidden) call.Output("grad_hidden", grad_hidden, &args.grad_hidden);
        if (want_weight) call.Output("grad_weight", grad_weight, &args.grad_weight);
        call.Input("hidden", hidden, &args.hidden);
        call.Input("weight", weight, &args.weight);
        call.Input("target", target, &args.target, Layout::kAny);
        call.Input("lse", lse, &args.lse);
        call.Input("grad_loss", grad_loss, &args.grad_loss);
        call.Input("grad_lse", grad_lse, &args.grad_lse);
        args.options = OptionsOf(kOp, ignore_index, label_smoothing, z_loss, reduction);
        return call.Run(cpu::LinearCrossEntropyBackward, args);
      },
      nb::arg("grad_hidden"), nb::arg("grad_weight"), nb::arg("hidden"), nb::arg("weight"),
      nb::arg("target"), nb::arg("lse"), nb::arg("grad_loss"), nb::arg("grad_lse"),
      nb::arg("ignore_index"), nb::arg("label_smoothing"), nb::arg("z_loss"), nb::arg("reduction"),
      nb::arg("want_hidden"), nb::arg("want_weight"));
}

}  // namespace kpt::bindings
