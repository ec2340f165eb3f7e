// The settings of options that the tests of attention go through.
#ifndef KPT_TESTS_KERNELS_ATTENTION_ATTENTION_OPTIONS_TESTING_H_
#define KPT_TESTS_KERNELS_ATTENTION_ATTENTION_OPTIONS_TESTING_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "kernels/attention/attention_options.h"
#include "tests/kernels/attention/attention_testing.h"

namespace kpt::testing_util {

// A named setting of options; `data` keeps what the views point to.
struct Data {
  std::vector<uint8_t> flags;
  std::vector<float> numbers, more_numbers;
  std::vector<int64_t> q_ids, k_ids;
};
struct Option {
  const char* name;
  std::function<void(const Sizes&, cpu::AttentionOptions*, Data*)> set;
};

inline void SetMask(const Sizes& n, cpu::AttentionOptions* a, Data* d, bool per_row,
                    bool additive) {
  const int64_t rows = per_row ? n.seqlen_q : 1;
  std::mt19937 random(3);
  d->flags.resize(static_cast<size_t>(n.batch * rows * n.seqlen_k));
  for (uint8_t& f : d->flags) f = random() % 3 != 0;
  d->numbers.clear();
  for (const uint8_t f : d->flags) {
    d->numbers.push_back(f == 0 ? -std::numeric_limits<float>::infinity()
                                : static_cast<float>(random() % 100) / 50.0f);
  }
  const std::vector<int64_t> shape = {n.batch, 1, rows, n.seqlen_k};
  a->mask =
      additive ? Dense(d->numbers, DType::kFloat32, shape) : Dense(d->flags, DType::kBool, shape);
}

inline void SetSinks(const Sizes& n, cpu::AttentionOptions* a, Data* d) {
  for (int64_t h = 0; h < n.heads_q; ++h) d->more_numbers.push_back(static_cast<float>(h) - 1.0f);
  a->sinks = Dense(d->more_numbers, DType::kFloat32, {n.heads_q});
}

inline void SetDocuments(const Sizes& n, cpu::AttentionOptions* a, Data* d) {
  for (int64_t b = 0; b < n.batch; ++b) {
    for (int64_t i = 0; i < n.seqlen_q; ++i) d->q_ids.push_back((b + i) / 9);
    for (int64_t j = 0; j < n.seqlen_k; ++j) d->k_ids.push_back((b + j) / 9);
  }
  a->q_doc = Dense(d->q_ids, DType::kInt64, {n.batch, n.seqlen_q});
  a->k_doc = Dense(d->k_ids, DType::kInt64, {n.batch, n.seqlen_k});
}

inline const std::vector<Option>& Options() {
  using A = cpu::AttentionOptions;
  static const std::vector<Option> options = {
      {"plain", [](const Sizes&, A*, Data*) {}},
      {"causal", [](const Sizes&, A* a, Data*) { a->is_causal = true; }},
      {"window",
       [](const Sizes&, A* a, Data*) {
         a->window_left = 5;
         a->window_right = 3;
       }},
      {"causal, prefix, scale",
       [](const Sizes&, A* a, Data*) {
         a->is_causal = true;
         a->prefix_len = 7;
         a->scale = 0.3f;
       }},
      {"negative scale", [](const Sizes&, A* a, Data*) { a->scale = -0.2f; }},
      {"softcap", [](const Sizes&, A* a, Data*) { a->softcap = 1.5f; }},
      {"bool mask", [](const Sizes& n, A* a, Data* d) { SetMask(n, a, d, true, false); }},
      {"additive mask", [](const Sizes& n, A* a, Data* d) { SetMask(n, a, d, true, true); }},
      {"bool key mask, causal",
       [](const Sizes& n, A* a, Data* d) {
         SetMask(n, a, d, false, false);
         a->is_causal = true;
       }},
      {"additive key mask", [](const Sizes& n, A* a, Data* d) { SetMask(n, a, d, false, true); }},
      {"alibi",
       [](const Sizes& n, A* a, Data* d) {
         for (int64_t i = 0; i < n.batch * n.heads_q; ++i) {
           d->numbers.push_back(0.05f * static_cast<float>(i));
         }
         a->alibi_slopes = Dense(d->numbers, DType::kFloat32, {n.batch, n.heads_q});
       }},
      {"sinks", SetSinks},
      {"documents", SetDocuments},
      {"all but alibi",
       [](const Sizes& n, A* a, Data* d) {
         SetMask(n, a, d, true, true);
         SetSinks(n, a, d);
         SetDocuments(n, a, d);
         a->is_causal = true;
         a->window_left = 20;
         a->prefix_len = 3;
         a->softcap = 10.0f;
       }},
  };
  return options;
}

}  // namespace kpt::testing_util

#endif  // KPT_TESTS_KERNELS_ATTENTION_ATTENTION_OPTIONS_TESTING_H_
