// attention_decode and attention_paged for heads of up to 64 elements.
#include "kernels/attention/cuda/decode_pieces_impl.h"

namespace kpt::KPT_BACKEND {

Status DecodePieces64(const LaunchContext& ctx, const DecodeProblem& p) {
  return StartDecodePieces<64>(ctx, p);
}

}  // namespace kpt::KPT_BACKEND
