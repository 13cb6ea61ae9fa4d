// Attention of one new position of every text over the keys and values of a cache.
#pragma once

#include "instruction_set.h"

namespace ld4lg {

// Texts are `beams` of each sentence, side by side. All float32 but `chosen`.
struct CachedAttention {
  const float* query;  // texts x heads * width
  int64_t query_stride;
  const float *keys, *values;  // sentences x heads x capacity x slots x width
  const int64_t* chosen;       // texts x capacity: the slot of a position with the text's own key; null: slot 0
  const float* bias;           // added to the scores, `span` numbers of each sentence and head, or null
  int64_t bias_sentence_stride, bias_head_stride;
  float* out;  // texts x heads * width
  int64_t sentences, beams, heads, width, capacity, slots, span;
  float scale;
  int32_t threads;
};

// False if a slot is out of range; slot 0 is then read instead.
LD4LG_IN_EVERY_VARIANT(bool cached_attention(const CachedAttention& args);)

}  // namespace ld4lg
