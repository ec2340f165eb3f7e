#include "kernels/probe/cuda/product.h"

#include <string>

#include "kernels/base/gpu_variant.h"
#include "kernels/base/row_checks.h"

namespace kpt::cuda {
namespace {

constexpr GpuVariant<ProbeProductArgs> kVariants[] = {
    {"sm90a_128x256x64", GpuTarget::kSm90a, nullptr, ProductSm90a},
};

Status CheckMatrix(const char* arg, const TensorView& view, int64_t rows, int64_t cols) {
  constexpr const char* kOp = "probe_product";
  if (view.dtype != DType::kBFloat16) {
    return Status::TypeError(Argument(kOp, arg) + "must have dtype bfloat16, got " +
                             Name(view.dtype));
  }
  if (view.rank != 2 || view.dim(0) != rows || view.dim(1) != cols || rows < 1 || cols < 1) {
    return Status::InvalidArgument(Argument(kOp, arg) + "must have shape [" + std::to_string(rows) +
                                   ", " + std::to_string(cols) + "], sizes from 1 on, got " +
                                   ShapeText(view));
  }
  return Status();
}

}  // namespace

Status ProbeProduct(const LaunchContext& ctx, const ProbeProductArgs& args) {
  const int64_t m = args.a.rank == 2 ? args.a.dim(0) : 0;
  const int64_t k = args.a.rank == 2 ? args.a.dim(1) : 0;
  const int64_t n = args.b.rank == 2 ? args.b.dim(0) : 0;
  KPT_RETURN_IF_ERROR(CheckMatrix("a", args.a, m, k));
  KPT_RETURN_IF_ERROR(CheckMatrix("b", args.b, n, k));
  KPT_RETURN_IF_ERROR(CheckMatrix("out", args.out, m, n));
  return RunFirst("probe_product", kVariants, ctx, args);
}

std::vector<VariantInfo> ProbeProductVariants() { return ListVariants(kVariants); }

}  // namespace kpt::cuda
