#pragma once

#include "instruction_set.h"
#include "matrix.h"

namespace ld4lg {

constexpr int64_t kHeadWidth = 64;
constexpr int64_t kColumnBlock = 32;
constexpr int64_t kRowBlock = 8;

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

// Keys and values, probabilities of some queries and a row of the bias, queries, outputs, a block to transpose.
inline int64_t short_attention_scratch(int64_t keys) {
  return padded_keys(keys) * (2 * kHeadWidth + kRowBlock + 1) + (2 * kRowBlock + kColumnBlock) * kHeadWidth;
}

struct ShortAttentionBackward {
  ShortAttention inputs;             // without out
  ConstRows grad;                    // batch * queries rows
  int64_t grad_batch_stride;
  Rows grad_q, grad_k, grad_v;       // contiguous
  float* grad_bias;                  // batch x heads x queries x keys, or null
  float *q_sums, *k_sums;            // batch x heads x kHeadWidth, or null
};

// Keys three times, queries and gradients, two matrices of probabilities, a row of the bias, outputs, a block.
inline int64_t short_attention_backward_scratch(int64_t queries, int64_t keys) {
  const int64_t rows = padded_keys(queries), columns = padded_keys(keys);
  return columns * (3 * kHeadWidth + 2 * rows + 1) + (2 * rows + kRowBlock + kColumnBlock) * kHeadWidth;
}

LD4LG_IN_EVERY_VARIANT(void short_attention(const ShortAttention& args);
                       void short_attention_backward(const ShortAttentionBackward& args);)

}  // namespace ld4lg
