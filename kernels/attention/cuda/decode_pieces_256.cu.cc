// attention_decode and attention_paged for heads of up to 256 elements.
#include "kernels/attention/cuda/decode_pieces_impl.h"

namespace kpt::KPT_BACKEND {

Status DecodePieces256(const LaunchContext& ctx, const DecodeProblem& p) {
  return StartDecodePieces<256>(ctx, p);
}

}  // namespace kpt::KPT_BACKEND
