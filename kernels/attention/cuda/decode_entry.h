// What the kernels of attention_decode know of an entry of the batch.
#ifndef KPT_KERNELS_ATTENTION_CUDA_DECODE_ENTRY_H_
#define KPT_KERNELS_ATTENTION_CUDA_DECODE_ENTRY_H_

#include "kernels/attention/cuda/decode_kernels.h"
#include "kernels/attention/cuda/score_rules.h"

namespace kpt::gpu {

struct DecodeEntry {
  int length;  // keys; 0 where `valid` is not
  bool valid;  // else its length is out of range
  int begin;   // first key that some query sees, a multiple of kDecodeKeys
  int piece;   // keys of a piece
  int pieces;
};

KPT_DEVICE DecodeEntry DecodeEntryOf(const DecodeProblem& p, int64_t batch, int64_t most_pieces) {
  using KPT_BACKEND::kDecodeKeys;
  using KPT_BACKEND::kDecodeLeastPiece;
  const int64_t length = SeqLen(p, batch);
  DecodeEntry e;
  e.valid = length >= 0 && length <= p.capacity;
  e.length = e.valid ? static_cast<int>(length) : 0;
  e.begin = 0;
  if (p.window_left >= 0) {
    const int first = e.length - static_cast<int>(p.seqlen_q) - static_cast<int>(p.window_left);
    if (first > 0) e.begin = first / kDecodeKeys * kDecodeKeys;
  }
  const int keys = e.length - e.begin;
  const int most = static_cast<int>(most_pieces);
  int piece = (keys + most - 1) / most;
  piece = (piece + kDecodeKeys - 1) / kDecodeKeys * kDecodeKeys;
  e.piece = piece < kDecodeLeastPiece ? kDecodeLeastPiece : piece;
  e.pieces = (keys + e.piece - 1) / e.piece;
  return e;
}

}  // namespace kpt::gpu

#endif  // KPT_KERNELS_ATTENTION_CUDA_DECODE_ENTRY_H_
