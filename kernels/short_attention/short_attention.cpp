// The C interface of attention over short sequences.
#include "short_attention.h"

#include <algorithm>

#include "call.h"
#include "scratch.h"

namespace {

// The arguments that forward and backward share.
ld4lg::ShortAttention inputs(
    const void* q, int64_t q_batch_stride, int64_t q_stride, const void* k, int64_t k_batch_stride, int64_t k_stride,
    const void* v, int64_t v_batch_stride, int64_t v_stride, int32_t dtype, const void* bias,
    int64_t bias_batch_stride, int64_t bias_head_stride, int64_t bias_query_stride, int64_t bias_key_stride,
    int32_t bias_dtype, const float* q_gain, const float* k_gain, int64_t batch, int64_t queries, int64_t keys,
    int64_t heads, int32_t threads) {
  using ld4lg::DType;
  ld4lg::ShortAttention args{};
  args.q = {q, q_stride, DType{dtype}};
  args.k = {k, k_stride, DType{dtype}};
  args.v = {v, v_stride, DType{dtype}};
  args.q_batch_stride = q_batch_stride;
  args.k_batch_stride = k_batch_stride;
  args.v_batch_stride = v_batch_stride;
  args.bias = bias;
  args.bias_dtype = DType{bias_dtype};
  args.q_gain = q_gain;
  args.k_gain = k_gain;
  args.batch = batch;
  args.queries = queries;
  args.keys = keys;
  args.heads = heads;
  args.threads = ld4lg::useful_threads(threads, batch * heads * queries * keys);
  const int64_t strides[] = {bias_batch_stride, bias_head_stride, bias_query_stride, bias_key_stride};
  std::copy_n(strides, 4, args.bias_strides);
  return args;
}

}  // namespace

// q, k, v and out have one dtype: 0 float32, 1 bfloat16; strides in elements. bias, q_gain and k_gain may be null.
static void short_attention(
    const void* q, int64_t q_batch_stride, int64_t q_stride, const void* k, int64_t k_batch_stride, int64_t k_stride,
    const void* v, int64_t v_batch_stride, int64_t v_stride, int32_t dtype, const void* bias,
    int64_t bias_batch_stride, int64_t bias_head_stride, int64_t bias_query_stride, int64_t bias_key_stride,
    int32_t bias_dtype, const float* q_gain, const float* k_gain, int64_t batch, int64_t queries, int64_t keys,
    int64_t heads, int32_t threads, void* out) {
  ld4lg::ShortAttention args =
      inputs(q, q_batch_stride, q_stride, k, k_batch_stride, k_stride, v, v_batch_stride, v_stride, dtype, bias,
             bias_batch_stride, bias_head_stride, bias_query_stride, bias_key_stride, bias_dtype, q_gain, k_gain, batch, queries, keys, heads, threads);
  args.scratch_size = ld4lg::short_attention_scratch(keys);
  const ld4lg::Scratch scratch(args.threads * args.scratch_size);
  args.scratch = scratch.get();
  args.out = {out, heads * ld4lg::kHeadWidth, args.q.dtype};
  LD4LG_CALL(short_attention, args);
}
LD4LG_EXPORT_CALL(short_attention)

// grad and the contiguous grad_q, grad_k, grad_v have q's dtype. grad_bias comes with bias, the sums with the gains.
static void short_attention_backward(
    const void* q, int64_t q_batch_stride, int64_t q_stride, const void* k, int64_t k_batch_stride, int64_t k_stride,
    const void* v, int64_t v_batch_stride, int64_t v_stride, int32_t dtype, const void* bias,
    int64_t bias_batch_stride, int64_t bias_head_stride, int64_t bias_query_stride, int64_t bias_key_stride,
    int32_t bias_dtype, const float* q_gain, const float* k_gain, int64_t batch, int64_t queries, int64_t keys,
    int64_t heads, int32_t threads, const void* grad, int64_t grad_batch_stride,
    int64_t grad_stride, void* grad_q, void* grad_k, void* grad_v, float* grad_bias, float* q_sums, float* k_sums) {
  ld4lg::ShortAttentionBackward args{};
  args.inputs =
      inputs(q, q_batch_stride, q_stride, k, k_batch_stride, k_stride, v, v_batch_stride, v_stride, dtype, bias,
             bias_batch_stride, bias_head_stride, bias_query_stride, bias_key_stride, bias_dtype, q_gain, k_gain, batch, queries, keys, heads, threads);
  args.inputs.scratch_size = ld4lg::short_attention_backward_scratch(queries, keys);
  const ld4lg::Scratch scratch(args.inputs.threads * args.inputs.scratch_size);
  args.inputs.scratch = scratch.get();
  const int64_t width = heads * ld4lg::kHeadWidth;
  const ld4lg::DType kind = args.inputs.q.dtype;
  args.grad = {grad, grad_stride, kind};
  args.grad_batch_stride = grad_batch_stride;
  args.grad_q = {grad_q, width, kind};
  args.grad_k = {grad_k, width, kind};
  args.grad_v = {grad_v, width, kind};
  args.grad_bias = grad_bias;
  args.q_sums = q_sums;
  args.k_sums = k_sums;
  LD4LG_CALL(short_attention_backward, args);
}
LD4LG_EXPORT_CALL(short_attention_backward)
