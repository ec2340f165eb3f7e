// The kernel of attention_decode and attention_paged that reads the cache. A block has 16 rows, the
// queries that share a key head (GQA), and walks over pieces of the keys, 64 at a time in two
// buffers in turn; each of its 4 warps takes 16 of the 64 keys and has a softmax of its own, and
// the four are put together at the end of a piece. Caches of the queries' type come by cp.async;
// those of 8 bits through registers, where they are widened. Included by a file for each size of
// head.
//
// Predicted on an H200 for 32 entries of 4096 tokens, 32 heads over 8 of 128, in bfloat16: 537 MB
// at 3.6 TB/s, 150 us, and 5 us for the combination. Two blocks a multiprocessor have 64 KB in
// flight, twice what its share of the bandwidth times the latency of memory asks for; putting the
// warps together costs a block about a tenth of a piece of 256 keys, while the other block reads
// on. Pages of 8 cost a division and a look into the table a row more, beneath the reads. 8-bit
// caches halve the bytes: 85 us.
#ifndef KPT_KERNELS_ATTENTION_CUDA_DECODE_PIECES_IMPL_H_
#define KPT_KERNELS_ATTENTION_CUDA_DECODE_PIECES_IMPL_H_

#include "kernels/attention/cuda/decode_entry.h"
#include "kernels/attention/cuda/tiles.h"
#include "kernels/base/gpu/launch.h"
#include "kernels/base/gpu/row_tiling.h"

namespace kpt::KPT_BACKEND {
namespace {

using namespace gpu;  // NOLINT: the vocabulary of kernels

// Each has 16 of the keys that a block takes at a time.
template <int kDim>
constexpr int kDecodeWarps = kDim <= 128 ? 4 : 2;

struct DecodeParams {
  DecodeProblem problem;
  int64_t row_tiles, units, pieces, per_block, blocks, row_floats;
  float* results;  // [unit, piece, row, row_floats]
  bool aligned;    // rows of q and of the caches are 16-byte pieces, of 8-bit caches 8-byte pieces
};

// Where key `key` of an entry lies in the caches; invalid: on a page that is not there.
struct DecodePlace {
  int64_t first;  // entry or page
  int64_t row;
  bool valid;
};

KPT_DEVICE DecodePlace DecodePlaceOf(const DecodeProblem& p, int64_t batch, int key) {
  if (p.block_table == nullptr) return {batch, key, true};
  const int page = key / static_cast<int>(p.page_size);
  const int64_t at = p.block_table[batch * p.table_batch + page * p.table_page];
  return {at, key - page * p.page_size, at >= 0 && at < p.num_pages};
}

// 8 codes of a cache in two words, widened to T.
template <class T>
KPT_DEVICE Words16 WidenCodes(DType dtype, uint32_t lo, uint32_t hi) {
  Words16 words;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t word = half == 0 ? lo : hi;
    float v[4];
    if (dtype == DType::kInt8) {
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = static_cast<float>(static_cast<int8_t>(word >> (8 * i)));
    } else {
      DecodeFp8x4(word, Fp8Format::kE4M3FN, v);
    }
    words.word[2 * half] = Narrow2(v[0], v[1], T());
    words.word[2 * half + 1] = Narrow2(v[2], v[3], T());
  }
  return words;
}

template <class T, int kDim, bool kCodes>
KPT_KERNEL(32 * kDecodeWarps<kDim>, kDim == 256 ? 1 : 2)
DecodePiecesKernel(KPT_PARAMS(DecodeParams) params) {
  constexpr int kWarps = kDecodeWarps<kDim>, kThreads = 32 * kWarps;
  constexpr int kKeys = 16 * kWarps, kRows = kDecodeRows;
  constexpr int kChunks = kDim / 8;
  constexpr int kQuery = 0, kBuffers = kRows * kChunks;
  constexpr int kBuffer = 2 * kKeys * kChunks;       // keys, then values
  constexpr int kHeld = kKeys * kChunks / kThreads;  // chunks of a thread, of each cache
  // Codes are on their way, in registers, while the block before is multiplied.
  constexpr bool kPrefetch = kCodes && kDim <= 128;
  const DecodeProblem& p = params.problem;
  KPT_DYNAMIC_SHARED(Words16, shared);
  KPT_SHARED(float, stats, 2 * kWarps * kRows);  // of each warp: maxima, then sums
  KPT_SHARED(float, sums, kRows* kDim);          // of a warp, on their way to the first
  KPT_SHARED(int, bad_pages, kWarps);
  const int warp = ThreadIndex() / 32, lane = ThreadIndex() % 32;
  const int seqlen_q = static_cast<int>(p.seqlen_q);
  const int group = static_cast<int>(p.heads_q / p.heads_kv);

  for (int64_t index = BlockIndex(); index < params.blocks; index += GridBlocks()) {
    const int64_t turn = index / params.units, unit = index - turn * params.units;
    const int64_t of_kv = unit / params.row_tiles;
    const int first_row = static_cast<int>(unit - of_kv * params.row_tiles) * kRows;
    const int64_t batch = of_kv / p.heads_kv, head_kv = of_kv - batch * p.heads_kv;
    const DecodeEntry entry = DecodeEntryOf(p, batch, params.pieces);
    const int rows = seqlen_q * group - first_row < kRows ? seqlen_q * group - first_row : kRows;

    // Row r: token r % seqlen_q of query head r / seqlen_q.
    FillTile<kDim, T>(shared, kQuery, kRows, static_cast<int>(p.dim_qk), params.aligned, p.q,
                      [&](int r) -> const T* {
                        if (r >= rows) return nullptr;
                        const int64_t head = head_kv * group + (first_row + r) / seqlen_q;
                        return static_cast<const T*>(p.q) + batch * p.q_stride.batch +
                               head * p.q_stride.head + (first_row + r) % seqlen_q * p.q_stride.row;
                      });
    CommitCopies();

    const int64_t end_piece = (turn + 1) * params.per_block;
    for (int64_t piece = turn * params.per_block; piece < end_piece && piece < entry.pieces;
         ++piece) {
      const int begin = entry.begin + static_cast<int>(piece) * entry.piece;
      const int end = begin + entry.piece < entry.length ? begin + entry.piece : entry.length;
      bool bad = false;
      // Offset of a key's row in a cache; -1 past the end.
      const auto row_at = [&](const DecodeCache& cache, int key) -> int64_t {
        if (key >= end) return -1;
        const DecodePlace place = DecodePlaceOf(p, batch, key);
        bad = bad || !place.valid;
        if (!place.valid) return -1;
        return place.first * cache.stride.batch + head_kv * cache.stride.head +
               place.row * cache.stride.row;
      };
      const auto load_codes = [&](int first, int i, uint32_t (&codes)[2]) {
        const DecodeCache& cache = i < kHeld ? p.k : p.v;
        const int place = ThreadIndex() + i % kHeld * kThreads;
        const int c = place % kChunks;
        const int64_t row = row_at(cache, first + place / kChunks);
        const int left = static_cast<int>(i < kHeld ? p.dim_qk : p.dim_v) - 8 * c;
        codes[0] = codes[1] = 0;
        if (row < 0 || left <= 0) return;
        const uint8_t* const from = static_cast<const uint8_t*>(cache.data) + row + 8 * c;
        if (params.aligned) {
          Load8(from, &codes[0], &codes[1]);
          return;
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          if (j < left) codes[j / 4] |= static_cast<uint32_t>(from[j]) << (8 * (j % 4));
        }
      };
      const auto store_codes = [&](int buffer, int i, const uint32_t (&codes)[2]) {
        const int place = ThreadIndex() + i % kHeld * kThreads;
        const int tile = kBuffers + buffer * kBuffer + i / kHeld * kKeys * kChunks;
        shared[tile + ChunkAt<kDim>(place / kChunks, place % kChunks)] =
            WidenCodes<T>(p.cache_dtype, codes[0], codes[1]);
      };
      uint32_t held[kPrefetch ? 2 * kHeld : 1][2];  // keys, then values
      // Begins to read the keys from `first` on; they are in the buffer after put, and a barrier.
      const auto fetch = [&](int first, int buffer) {
        if constexpr (kPrefetch) {
#pragma unroll
          for (int i = 0; i < 2 * kHeld; ++i) load_codes(first, i, held[i]);
        } else if constexpr (kCodes) {
#pragma unroll 4
          for (int i = 0; i < 2 * kHeld; ++i) {
            uint32_t codes[2];
            load_codes(first, i, codes);
            store_codes(buffer, i, codes);
          }
        } else {
          const int at = kBuffers + buffer * kBuffer;
          FillTile<kDim, T>(shared, at, kKeys, static_cast<int>(p.dim_qk), params.aligned, p.q,
                            [&](int r) -> const T* {
                              const int64_t row = row_at(p.k, first + r);
                              return row < 0 ? nullptr : static_cast<const T*>(p.k.data) + row;
                            });
          FillTile<kDim, T>(shared, at + kKeys * kChunks, kKeys, static_cast<int>(p.dim_v),
                            params.aligned, p.q, [&](int r) -> const T* {
                              const int64_t row = row_at(p.v, first + r);
                              return row < 0 ? nullptr : static_cast<const T*>(p.v.data) + row;
                            });
        }
        CommitCopies();
      };
      const auto put = [&](int buffer) {
        if constexpr (kPrefetch) {
#pragma unroll
          for (int i = 0; i < 2 * kHeld; ++i) store_codes(buffer, i, held[i]);
        }
      };

      float most[2] = {NegativeInfinity(), NegativeInfinity()};
      float sum[2] = {0.0f, 0.0f};
      float out[kDim / 8][4] = {};
      SyncBlock();  // the last piece is done with the buffers
      fetch(begin, 0);
      put(0);
      for (int first = begin, buffer = 0; first < end; first += kKeys, buffer ^= 1) {
        WaitCopies<0>();
        SyncBlock();
        const bool more = first + kKeys < end;
        if (more) fetch(first + kKeys, buffer ^ 1);
        const int keys = kBuffers + buffer * kBuffer, values = keys + kKeys * kChunks;
        float s[2][4] = {};
#pragma unroll(kDim == 256 ? 2 : kDim / 16)
        for (int i = 0; i < kDim / 16; ++i) {
          uint32_t a[4], b[4];
          LoadLeft<kDim>(shared, kQuery, 0, i, a);
          LoadRight<kDim>(shared, keys, 16 * warp, i, b);
          MultiplyAdd(s[0], a, b[0], b[1], T());
          MultiplyAdd(s[1], a, b[2], b[3], T());
        }
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int row = first_row + lane / 4 + 8 * r;
          const int position = entry.length - seqlen_q + row % seqlen_q;
          const int64_t head = head_kv * group + row / seqlen_q;
          float slope = 0.0f;
          if (p.alibi != nullptr && lane / 4 + 8 * r < rows) {
            slope = p.alibi[head * p.alibi_stride] * kLog2E;
          }
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            float& score = s[j / 2][2 * r + j % 2];
            const int key = first + 16 * warp + 8 * (j / 2) + lane % 4 * 2 + j % 2;
            const bool seen = key < end && key <= position &&
                              (p.window_left < 0 || key >= position - p.window_left);
            if (!seen) {
              score = NegativeInfinity();
              continue;
            }
            float x = score * p.scale;
            if (p.k.scale != nullptr) {
              const DecodePlace at = DecodePlaceOf(p, batch, key);
              if (at.valid) {
                x *= p.k.scale[at.first * p.k.scale_stride.batch + head_kv * p.k.scale_stride.head +
                               at.row * p.k.scale_stride.row];
              }
            }
            if (p.softcap > 0.0f) x = p.softcap * ScoreTanh(x / p.softcap);
            score = x * kLog2E - slope * static_cast<float>(position - key);
          }
          float above = most[r];
#pragma unroll
          for (int j = 0; j < 4; ++j) above = MaxOf(above, s[j / 2][2 * r + j % 2]);
          above = QuadMax(above);
          const float base = above == NegativeInfinity() ? 0.0f : above;
          const float factor = FastExp2(most[r] - base);
          most[r] = above;
          sum[r] *= factor;
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            float& weight = s[j / 2][2 * r + j % 2];
            weight = FastExp2(weight - base);
            sum[r] += weight;
            if (p.v.scale != nullptr) {
              const int key = first + 16 * warp + 8 * (j / 2) + lane % 4 * 2 + j % 2;
              if (key < end) {
                const DecodePlace at = DecodePlaceOf(p, batch, key);
                if (at.valid) {
                  weight *=
                      p.v.scale[at.first * p.v.scale_stride.batch +
                                head_kv * p.v.scale_stride.head + at.row * p.v.scale_stride.row];
                }
              }
            }
          }
#pragma unroll
          for (int n = 0; n < kDim / 8; ++n) {
            out[n][2 * r] *= factor;
            out[n][2 * r + 1] *= factor;
          }
        }
        uint32_t a[4];
        LeftOf<T>(s[0], s[1], a);
#pragma unroll
        for (int n = 0; n < kDim / 16; ++n) {
          uint32_t b[4];
          LoadRightTransposed<kDim>(shared, values, warp, 2 * n, b);
          MultiplyAdd(out[2 * n], a, b[0], b[1], T());
          MultiplyAdd(out[2 * n + 1], a, b[2], b[3], T());
        }
        if (more) put(buffer ^ 1);
      }
      WaitCopies<0>();

      // The softmaxes of the warps become one: the first warp adds the sums of the others, in
      // order.
      const bool any_bad = WarpAny(bad);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        sum[r] = QuadSum(sum[r]);
        if (lane % 4 == 0) {
          stats[warp * kRows + lane / 4 + 8 * r] = most[r];
          stats[(kWarps + warp) * kRows + lane / 4 + 8 * r] = sum[r];
        }
      }
      if (lane == 0) bad_pages[warp] = any_bad ? 1 : 0;
      SyncBlock();
      float total[2] = {0.0f, 0.0f}, all_most[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = lane / 4 + 8 * r;
        all_most[r] = NegativeInfinity();
        for (int w = 0; w < kWarps; ++w) {
          all_most[r] = MaxOf(all_most[r], stats[w * kRows + row]);
        }
        const float base = all_most[r] == NegativeInfinity() ? 0.0f : all_most[r];
        for (int w = 0; w < kWarps; ++w) {
          total[r] += stats[(kWarps + w) * kRows + row] * FastExp2(stats[w * kRows + row] - base);
        }
        const float factor = FastExp2(most[r] - base);
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
          out[n][2 * r] *= factor;
          out[n][2 * r + 1] *= factor;
        }
      }
      for (int w = 1; w < kWarps; ++w) {
        if (warp == w) {
#pragma unroll
          for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[(4 * n + i) * 32 + lane] = out[n][i];
          }
        }
        SyncBlock();
        if (warp == 0) {
#pragma unroll
          for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) out[n][i] += sums[(4 * n + i) * 32 + lane];
          }
        }
        SyncBlock();
      }
      if (warp == 0) {
        bool nan = false;
        for (int w = 0; w < kWarps; ++w) nan = nan || bad_pages[w] != 0;
        float* const results =
            params.results + (unit * params.pieces + piece) * kRows * params.row_floats;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int row = lane / 4 + 8 * r;
          if (row >= rows) continue;
          float* const to = results + row * params.row_floats;
          if (lane % 4 == 0) {
            to[0] = all_most[r];
            to[1] = nan ? BitsToFloat(0x7fc00000u) : total[r];
          }
#pragma unroll
          for (int n = 0; n < kDim / 8; ++n) {
            const int column = 8 * n + lane % 4 * 2;
            if (column < p.dim_v) to[2 + column] = out[n][2 * r];
            if (column + 1 < p.dim_v) to[3 + column] = out[n][2 * r + 1];
          }
        }
      }
    }
    WaitCopies<0>();
    SyncBlock();  // the tiles are free for the next unit
  }
}

template <class T, int kDim>
Status StartDecodePieces(const LaunchContext& ctx, const DecodeProblem& p) {
  const DecodeWork work = PlanDecode(*ctx.device, p);
  DecodeParams params = {};
  params.problem = p;
  params.row_tiles = work.row_tiles;
  params.units = work.units;
  params.pieces = work.pieces;
  params.per_block = work.per_block;
  params.blocks = work.blocks();
  params.row_floats = work.row_floats;
  params.results = static_cast<float*>(ctx.workspace);
  const bool codes = p.cache_dtype != p.dtype;
  const auto cache_is_aligned = [&](const DecodeCache& cache, int64_t dim) {
    // Of bytes, 8 are half of what RowsArePieces takes 8 elements for.
    return RowsArePieces(cache.data, cache.stride, dim, codes ? 4 : 8) &&
           (!codes || RowsArePieces(nullptr, cache.stride, dim, 8));
  };
  params.aligned = RowsArePieces(p.q, p.q_stride, p.dim_qk, 8) && cache_is_aligned(p.k, p.dim_qk) &&
                   cache_is_aligned(p.v, p.dim_v);
  constexpr int kWarps = kDecodeWarps<kDim>;
  constexpr int kBytes = 2 * kDim * (kDecodeRows + 4 * 16 * kWarps);
  return Launch("attention_decode", "decode_pieces",
                codes ? DecodePiecesKernel<T, kDim, true> : DecodePiecesKernel<T, kDim, false>,
                params.blocks < kMaxBlocks ? params.blocks : kMaxBlocks, 32 * kWarps, ctx, params,
                kBytes);
}

template <int kDim>
Status StartDecodePieces(const LaunchContext& ctx, const DecodeProblem& p) {
  return p.dtype == DType::kFloat16 ? StartDecodePieces<Float16, kDim>(ctx, p)
                                    : StartDecodePieces<BFloat16, kDim>(ctx, p);
}

}  // namespace
}  // namespace kpt::KPT_BACKEND

#endif  // KPT_KERNELS_ATTENTION_CUDA_DECODE_PIECES_IMPL_H_
