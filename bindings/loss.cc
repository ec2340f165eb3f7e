// The loss family: cross_entropy, its form with lse, its backward.
#include <nanobind/nanobind.h>

#include <string>

#include "bindings/base/call.h"
#include "bindings/families.h"
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
}

}  // namespace kpt::bindings
