// Attention of one new position of every text over the keys and values of a cache.
#pragma once

#include "instruction_set.h"

namespace ld4lg {

// Texts are `beams` of each sentence, side by side. All float32 but `chosen`. `groups` adjacent heads of the query
// share a head of the keys.
struct CachedAttention {
  const float* query;  // texts x heads * groups * width
  int64_t query_stride;
  float *keys, *values;   // sentences x heads x capacity x slots x width
  const int64_t* chosen;  // texts x capacity: the slot of a position with the text's own key; null: slot 0
  const float* bias;      // added to the scores, `span` numbers of each sentence and head, or null
  int64_t bias_sentence_stride, bias_head_stride;
  const float *key, *value;  // texts x heads * width, stored at the last position of the span, or null
  int64_t key_stride, value_stride;
  const float *cosines, *sines;  // width / 2: the rotation of query and key, or null
  float* out;                    // texts x heads * groups * width
  int64_t sentences, beams, heads, groups, width, capacity, slots, span;
  int64_t begin;  // positions before it are not seen
  float scale, softcap;  // scores become softcap · tanh(score / softcap), unless it is 0
  int32_t threads;
};

// False if a slot is out of range; slot 0 is then read instead.
LD4LG_IN_EVERY_VARIANT(bool cached_attention(const CachedAttention& args);)

}  // namespace ld4lg
