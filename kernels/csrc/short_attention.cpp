// The C interface of attention over short sequences.
#include "short_attention.h"

#include <memory>

// q, k, v and out have one dtype: 0 float32, 1 bfloat16; strides in elements. bias, q_gain and k_gain may be null.
LD4LG_EXPORT void ld4lg_short_attention(
    const void* q, int64_t q_batch_stride, int64_t q_stride, const void* k, int64_t k_batch_stride, int64_t k_stride,
    const void* v, int64_t v_batch_stride, int64_t v_stride, int32_t dtype, const void* bias,
    const int64_t* bias_strides, int32_t bias_dtype, const float* q_gain, const float* k_gain, void* out,
    int64_t batch, int64_t queries, int64_t keys, int64_t heads, int32_t threads) {
  using ld4lg::DType;
  const int64_t scratch_size = ld4lg::short_attention_scratch(keys);
  threads = ld4lg::useful_threads(threads, batch * heads * queries * keys);
  const std::unique_ptr<float[]> scratch(new float[threads * scratch_size]);
  ld4lg::ShortAttention args{
    {q, q_stride, DType{dtype}},
    {k, k_stride, DType{dtype}},
    {v, v_stride, DType{dtype}},
    q_batch_stride,
    k_batch_stride,
    v_batch_stride,
    bias,
    {0, 0, 0, 0},
    DType{bias_dtype},
    q_gain,
    k_gain,
    {out, heads * ld4lg::kHeadWidth, DType{dtype}},
    batch,
    queries,
    keys,
    heads,
    threads,
    scratch.get(),
    scratch_size};
  if (bias != nullptr)
    for (int axis = 0; axis < 4; ++axis) args.bias_strides[axis] = bias_strides[axis];
  LD4LG_CALL(short_attention, args);
}
