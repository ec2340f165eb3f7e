// The online softmax of a group of rows over one block of keys.
//
// Scores that are only multiplied by a positive number stay as they are: with t = scale * log2(e)
// * s the weight is 2^(t - m), one multiply-subtract and one exponential. All others are first
// transformed to t = scale * s + bias in natural units, with the weight 2^((t - m) log2(e)): a mask
// may be as low as the lowest float, which times log2(e) would be -inf, hiding what it must not.
// The reference maximum m may lag behind the true one by kMaxLag: weights and their sum carry the
// same factor, so nothing is lost, and the outputs hardly ever need rescaling after the first
// block.
//
// Included by files compiled once per instruction set: everything lies in KPT_SIMD_NS.
#ifndef KPT_KERNELS_ATTENTION_CPU_FLASH_SOFTMAX_H_
#define KPT_KERNELS_ATTENTION_CPU_FLASH_SOFTMAX_H_

#include "kernels/attention/cpu/flash_bias.h"
#include "kernels/attention/cpu/flash_block.h"
#include "kernels/attention/cpu/flash_math.h"

HWY_BEFORE_NAMESPACE();
namespace kpt::cpu::KPT_SIMD_NS {

constexpr float kMaxLag = 8.0f;

// Where a group of rows stands, and the keys of the current block that some of its rows see,
// counted from the block's first key. `begin` and `end` are multiples of the engine's alignment.
struct Group {
  int row;  // of the query block
  int rows;
  int state;  // index of its first row in Block's arrays of one number a row
  bool visible;
  int begin;
  int end;
  bool rescaled;  // o must be multiplied with Block::rescale
  bool first;     // o holds nothing yet
};

KPT_SIMD_INLINE bool NeedsTransform(const FlashProblem& p, const FlashTask& task) {
  return p.softcap > 0.0f || task.row_bias || task.key_bias != nullptr || !(p.scale > 0.0f);
}

// What turns scores into the units of maxima, and differences of those into exponents of two.
struct Units {
  Units(const FlashProblem& p, const FlashTask& task)
      : transformed(NeedsTransform(p, task)),
        of_score(transformed ? 1.0f : p.scale * kLog2E),
        log2(transformed ? kLog2E : 1.0f) {}

  bool transformed;
  float of_score;
  float log2;
};

// What a score becomes before its bias: t = scale * s, or softcap * tanh(scale / softcap * s).
class ScoreMap {
 public:
  explicit ScoreMap(const FlashProblem& p)
      : capped_(p.softcap > 0.0f),
        factor_(Set(capped_ ? p.scale / p.softcap : p.scale)),
        cap_(Set(p.softcap)) {}

  HWY_INLINE FloatVec operator()(FloatVec s) const {
    const FloatVec x = hn::Mul(s, factor_);
    return capped_ ? hn::Mul(Tanh<false>(x), cap_) : x;
  }
  // With the derivative of t by scale * s.
  HWY_INLINE FloatVec operator()(FloatVec s, FloatVec* slope) const {
    const FloatVec x = hn::Mul(s, factor_);
    const FloatVec one = Set(1.0f);
    if (!capped_) {
      *slope = one;
      return x;
    }
    const FloatVec y = Tanh<false>(x);
    *slope = hn::NegMulAdd(y, y, one);
    return hn::Mul(y, cap_);
  }

 private:
  bool capped_;
  FloatVec factor_, cap_;
};

// -inf where the bias is, whatever the score.
KPT_SIMD_INLINE FloatVec AddBias(FloatVec t, FloatVec bias) {
  const FloatVec hidden = Set(kNegInf);
  return hn::IfThenElse(hn::Eq(bias, hidden), hidden, hn::Add(t, bias));
}

KPT_SIMD_INLINE void TransformRow(const FlashProblem& p, const float* bias, int begin, int end,
                                  float* s) {
  const ScoreMap map(p);
  for (int i = begin; i < end; i += static_cast<int>(kLanes)) {
    FloatVec t = map(hn::LoadU(FloatTag(), s + i));
    if (bias != nullptr) t = AddBias(t, hn::LoadU(FloatTag(), bias + i));
    hn::StoreU(t, FloatTag(), s + i);
  }
}

// Which of the places i, i + 1, ... of a vector lie in [from, to).
KPT_SIMD_INLINE hn::Mask<FloatTag> IsInside(int i, int from, int to) {
  const hn::RebindToSigned<FloatTag> di;
  const auto place = hn::Iota(di, i);
  return hn::RebindMask(FloatTag(),
                        hn::And(hn::Ge(place, hn::Set(di, from)), hn::Lt(place, hn::Set(di, to))));
}

// -inf for the keys of [begin, end) outside [from, to).
KPT_SIMD_INLINE void HideKeys(int from, int to, int begin, int end, float* s) {
  constexpr int kStep = static_cast<int>(kLanes);
  for (int i = begin; i < end; i += kStep) {
    if (i >= from && i + kStep <= to) {
      i = to / kStep * kStep - kStep;  // the visible ones in between need nothing
      continue;
    }
    const FloatVec x = hn::LoadU(FloatTag(), s + i);
    hn::StoreU(hn::IfThenElse(IsInside(i, from, to), x, Set(kNegInf)), FloatTag(), s + i);
  }
}

// The maximum of s[begin, end) as a vector.
KPT_SIMD_INLINE FloatVec MaxOfRow(const float* s, int begin, int end) {
  constexpr int kStep = static_cast<int>(kLanes);
  FloatVec a = hn::LoadU(FloatTag(), s + begin);
  FloatVec b = a;
  int i = begin + kStep;
  for (; i + 2 * kStep <= end; i += 2 * kStep) {
    a = hn::Max(a, hn::LoadU(FloatTag(), s + i));
    b = hn::Max(b, hn::LoadU(FloatTag(), s + i + kStep));
  }
  if (i < end) a = hn::Max(a, hn::LoadU(FloatTag(), s + i));
  return hn::Max(a, b);
}

template <bool kTransformed>
KPT_SIMD_INLINE FloatVec Exponent(const float* s, FloatVec of_score, FloatVec shift) {
  const FloatVec x = hn::LoadU(FloatTag(), s);
  if constexpr (kTransformed) return hn::Mul(hn::Sub(x, shift), Set(kLog2E));
  return hn::MulSub(x, of_score, shift);
}

// weights[begin, end) from the scores, in place; returns their sum as a vector.
template <bool kTransformed>
KPT_SIMD_INLINE FloatVec WeightRow(const float* s, int begin, int end, FloatVec of_score,
                                   FloatVec shift, float* weights) {
  FloatVec sum = Set(0.0f);
  for (int i = begin; i < end; i += static_cast<int>(kLanes)) {
    const FloatVec w = ExpWeight<false>(Exponent<kTransformed>(s + i, of_score, shift));
    sum = hn::Add(sum, w);
    hn::StoreU(w, FloatTag(), weights + i);
  }
  return sum;
}

#if defined(__AVX512BF16__)
// 32 weights a step; in place, since a weight never lies behind its score.
template <bool kTransformed>
KPT_SIMD_INLINE FloatVec WeightRow(const float* s, int begin, int end, FloatVec of_score,
                                   FloatVec shift, uint16_t* weights) {
  FloatVec sum = Set(0.0f);
  int i = begin;
  for (; i + 32 <= end; i += 32) {
    const FloatVec w0 = ExpWeight<true>(Exponent<kTransformed>(s + i, of_score, shift));
    const FloatVec w1 = ExpWeight<true>(Exponent<kTransformed>(s + i + 16, of_score, shift));
    sum = hn::Add(sum, hn::Add(w0, w1));
    _mm512_storeu_si512(weights + i,
                        reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(w1.raw, w0.raw)));
  }
  if (i < end) {
    const FloatVec w = ExpWeight<true>(Exponent<kTransformed>(s + i, of_score, shift));
    sum = hn::Add(sum, w);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + i),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(w.raw)));
  }
  return sum;
}
#endif

// Updates the reference maxima of the group's rows from the maxima in block.row_vector; multiplies
// the sums of rows whose maximum moved and says whether there were any.
template <class B>
KPT_SIMD_INLINE bool UpdateMaxima(B& block, const Group& g, const Units& units, bool sums_started) {
  bool moved = false;
  // Rows that do not exist never move.
  for (int r = g.rows; r % 16 != 0; ++r) {
    hn::StoreU(Set(kNegInf), FloatTag(), block.row_vector + r * 16);
  }
  for (int r = 0; r < g.rows; r += 16) {
    alignas(64) float row_max[16];
    ReduceRows<MaxOp>(block.row_vector + r * 16, row_max);
    for (int i = 0; i < 16; i += static_cast<int>(kLanes)) {
      const int at = g.state + r + i;
      const FloatVec now = hn::Mul(hn::LoadU(FloatTag(), row_max + i), Set(units.of_score));
      const FloatVec before = hn::LoadU(FloatTag(), block.max + at);
      const auto higher = hn::Gt(now, hn::Add(before, Set(kMaxLag)));
      const FloatVec after = hn::IfThenElse(higher, now, before);
      const FloatVec factor = ExpWeight<false>(hn::Mul(hn::Sub(before, after), Set(units.log2)));
      const FloatVec rescale = hn::IfThenElse(higher, factor, Set(1.0f));
      hn::StoreU(after, FloatTag(), block.max + at);
      hn::StoreU(hn::IfThenElse(hn::Eq(after, Set(kNegInf)), Set(0.0f), after), FloatTag(),
                 block.shift + at);
      hn::StoreU(rescale, FloatTag(), block.rescale + at);
      moved = moved || !hn::AllFalse(FloatTag(), higher);
    }
  }
  if (moved && sums_started) {
    for (int r = 0; r < g.rows; ++r) {
      float* sum = block.partial + (g.row + r) * 16;
      const FloatVec factor_of_row = Set(block.rescale[g.state + r]);
      hn::StoreU(hn::Mul(hn::LoadU(FloatTag(), sum), factor_of_row), FloatTag(), sum);
    }
  }
  return moved;
}

// Turns the scores of a group of rows into weights, in place. `first_key` is the first key of the
// key block, `row0` the first row of the query block.
template <class B>
[[maybe_unused]] static void SoftmaxGroup(const FlashProblem& p, const FlashTask& task,
                                          int64_t head_q, int64_t row0, int64_t first_key, B& block,
                                          Group& g) {
  const Units units(p, task);
  for (int r = 0; r < g.rows; ++r) {
    const int row = g.row + r;
    float* s = block.s + row * kRowFloats;
    const KeyRange range = VisibleKeys(p, row0 + row);
    const int from = static_cast<int>(Most(range.begin - first_key, g.begin));
    const int to = static_cast<int>(Least(Least(range.end, task.keys.end) - first_key, g.end));
    if (units.transformed) {
      const float* bias = nullptr;
      if (task.row_bias) {
        if (from < to) {
          FillRowBias(p, task, head_q, row0 + row, first_key + from, to - from, block.bias + from);
        }
        bias = block.bias;
      } else if (task.key_bias != nullptr) {
        // The last vector may reach behind the last key: those lanes are hidden below, and the
        // driver leaves room behind the vector.
        bias = task.key_bias + (first_key - task.keys.begin);
      }
      TransformRow(p, bias, g.begin, g.end, s);
    }
    if (from > g.begin || to < g.end) HideKeys(from, to, g.begin, g.end, s);
    hn::StoreU(MaxOfRow(s, g.begin, g.end), FloatTag(), block.row_vector + r * 16);
  }

  g.rescaled = UpdateMaxima(block, g, units, !g.first || p.sinks != nullptr);

  const FloatVec of_score = Set(units.of_score);
  for (int r = 0; r < g.rows; ++r) {
    const float* s = block.s + (g.row + r) * kRowFloats;
    float* partial = block.partial + (g.row + r) * 16;
    const FloatVec shift = Set(block.shift[g.state + r]);
    auto* weights = block.weights(g.row + r);
    const FloatVec sum = units.transformed
                             ? WeightRow<true>(s, g.begin, g.end, of_score, shift, weights)
                             : WeightRow<false>(s, g.begin, g.end, of_score, shift, weights);
    hn::StoreU(hn::Add(hn::LoadU(FloatTag(), partial), sum), FloatTag(), partial);
  }
}

}  // namespace kpt::cpu::KPT_SIMD_NS
HWY_AFTER_NAMESPACE();

#endif  // KPT_KERNELS_ATTENTION_CPU_FLASH_SOFTMAX_H_
