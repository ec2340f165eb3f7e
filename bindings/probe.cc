// The probe family: the machine's limits. Not operators: nothing here is in torch.ops.kpt.
#include "kernels/probe/probe.h"

#include <nanobind/nanobind.h>

#include <string>

#include "bindings/base/call.h"
#include "bindings/base/context.h"
#include "bindings/families.h"

namespace kpt::bindings {
namespace nb = nanobind;
namespace {

cpu::ProbeCompute ComputeOrThrow(const std::string& name) {
  if (name == "fp32") return cpu::ProbeCompute::kFp32;
  if (name == "bf16") return cpu::ProbeCompute::kBf16;
  if (name == "int8") return cpu::ProbeCompute::kInt8;
  throw nb::value_error(
      ("probe_peak: argument 'compute' must be fp32, bf16 or int8, got '" + name + "'").c_str());
}

template <class Args>
nb::tuple Run(const char* op, Status (*probe)(const LaunchContext&, Args*), Args* args,
              double Args::* amount) {
  LaunchRecord record;
  LaunchContext ctx = MakeContext(op);
  ctx.record = &record;
  Status status;
  {
    nb::gil_scoped_release unlocked;
    status = probe(ctx, args);
  }
  ThrowIfError(status);
  return nb::make_tuple(record.variant, args->seconds, args->*amount);
}

}  // namespace

void BindProbe(nb::module_& m) {
  AddVariants("probe_peak", cpu::ProbePeakVariants());
  AddVariants("probe_memory", cpu::ProbeMemoryVariants());
  // (variant, seconds, operations)
  m.def(
      "probe_peak",
      [](const char* compute, int64_t iterations) {
        cpu::ProbePeakArgs args;
        args.compute = ComputeOrThrow(compute);
        args.iterations = iterations;
        return Run("probe_peak", cpu::ProbePeak, &args, &cpu::ProbePeakArgs::operations);
      },
      nb::arg("compute"), nb::arg("iterations"));
  // (variant, seconds, bytes moved); dense one-dimensional tensors of the same length
  m.def(
      "probe_memory",
      [](nb::handle target, nb::handle source, bool streaming, int64_t repeats) {
        const TensorView from = ViewOf(source, "probe_memory", "source", Layout::kDenseLast);
        cpu::ProbeMemoryArgs args;
        args.source = from.data;
        args.bytes = from.size() * ItemSize(from.dtype);
        if (from.rank != 1) throw nb::value_error("probe_memory: 'source' must have one dimension");
        if (!target.is_none()) {
          const MutableTensorView to = ViewOf(target, "probe_memory", "target", Layout::kDenseLast);
          if (to.rank != 1 || to.size() * ItemSize(to.dtype) != args.bytes) {
            throw nb::value_error("probe_memory: 'target' must be like 'source'");
          }
          args.target = to.mutable_data();
        }
        args.streaming = streaming;
        args.repeats = repeats;
        return Run("probe_memory", cpu::ProbeMemory, &args, &cpu::ProbeMemoryArgs::moved);
      },
      nb::arg("target").none(), nb::arg("source"), nb::arg("streaming"), nb::arg("repeats"));
}

}  // namespace kpt::bindings
