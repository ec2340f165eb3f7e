// The kernels of attention_decode and attention_paged, as their variants start them, and how work
// is cut for them.
#ifndef KPT_KERNELS_ATTENTION_CUDA_DECODE_KERNELS_H_
#define KPT_KERNELS_ATTENTION_CUDA_DECODE_KERNELS_H_

#include <cstdint>

#include "kernels/attention/decode_problem.h"
#include "kernels/base/backend.h"
#include "kernels/base/launch_context.h"
#include "kernels/base/status.h"

namespace kpt::KPT_BACKEND {

// Lengths and pages are looked at on the device alone: an entry whose length, or one of whose
// pages, is out of range gives NaN.
inline constexpr int kDecodeRows = 16;  // of a block: the queries that share a key head
inline constexpr int kDecodeKeys = 64;  // pieces are multiples of them
inline constexpr int kDecodeMaxPieces = 64;
inline constexpr int kDecodeLeastPiece = 256;  // keys

// The keys of an entry are cut into pieces, each an online softmax of its own; then they are put
// together in order. Where they are cut depends on the keys alone, so a result does not depend on
// the rest of the batch; how many pieces a block takes depends on what else there is to do.
struct DecodeWork {
  int64_t row_tiles = 0;   // of a key head
  int64_t units = 0;       // row tiles of all key heads of all entries
  int64_t pieces = 0;      // that an entry may have
  int64_t per_block = 1;   // pieces
  int64_t row_floats = 0;  // of a piece's result: the weighted sum, and before it maximum and sum
  int64_t blocks() const { return units * ((pieces + per_block - 1) / per_block); }
  int64_t workspace_bytes() const { return units * pieces * kDecodeRows * row_floats * 4; }
};

inline DecodeWork PlanDecode(const GpuDevice& device, const DecodeProblem& p) {
  DecodeWork work;
  const int64_t rows = p.seqlen_q * (p.heads_q / p.heads_kv);
  work.row_tiles = (rows + kDecodeRows - 1) / kDecodeRows;
  work.units = work.row_tiles * p.batch * p.heads_kv;
  work.pieces = (p.capacity + kDecodeLeastPiece - 1) / kDecodeLeastPiece;
  if (work.pieces > kDecodeMaxPieces) work.pieces = kDecodeMaxPieces;
  if (work.pieces < 1) work.pieces = 1;
  work.row_floats = p.dim_v + 2;
  // Eight blocks a multiprocessor even out that some entries are shorter.
  const int64_t wanted = (int64_t{8} * device.num_sms + work.units - 1) / work.units;
  const int64_t blocks = wanted < work.pieces ? wanted : work.pieces;
  work.per_block = (work.pieces + blocks - 1) / blocks;
  return work;
}

// The pieces of every entry into the workspace, for rows of up to 64, 128 or 256 elements; then the
// results.
Status DecodePieces64(const LaunchContext& ctx, const DecodeProblem& p);
Status DecodePieces128(const LaunchContext& ctx, const DecodeProblem& p);
Status DecodePieces256(const LaunchContext& ctx, const DecodeProblem& p);
Status DecodeCombine(const LaunchContext& ctx, const DecodeProblem& p);

}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ATTENTION_CUDA_DECODE_KERNELS_H_
