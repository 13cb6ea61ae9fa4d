#pragma once

#include "instruction_set.h"
#include "matrix.h"

namespace ld4lg {

constexpr int64_t kHeadWidth = 64;
constexpr int64_t kColumnBlock = 32;

struct ShortAttention {
  ConstRows q, k, v;  // batch * queries (keys) rows, heads side by side in each
  int64_t q_batch_stride, k_batch_stride, v_batch_stride;
  const void* bias;   // batch x heads x queries x keys, or null
  int64_t bias_strides[4];
  DType bias_dtype;
  const float *q_gain, *k_gain;  // kHeadWidth, or null
  Rows out;                      // batch * queries x heads * kHeadWidth, contiguous
  int64_t batch, queries, keys, heads;
  int32_t threads;
  float* scratch;          // threads x scratch_size
  int64_t scratch_size;    // short_attention_scratch(keys)
};

// Keys rounded up to whole column blocks.
inline int64_t padded_keys(int64_t keys) { return (keys + kColumnBlock - 1) / kColumnBlock * kColumnBlock; }

// Transposed keys, values, eight rows each of scores, queries, outputs and keys, and a row of the bias to widen into.
inline int64_t short_attention_scratch(int64_t keys) {
  return padded_keys(keys) * (2 * kHeadWidth + 9) + 24 * kHeadWidth;
}

LD4LG_IN_EVERY_VARIANT(void short_attention(const ShortAttention& args);)

}  // namespace ld4lg
