// The C interface of attention over a cache.
#include "cached_attention.h"

#include "call.h"

static bool cached_attention(const float* query, int64_t query_stride, float* keys, float* values,
                             const int64_t* chosen, const float* bias, int64_t bias_sentence_stride,
                             int64_t bias_head_stride, const float* key, int64_t key_stride, const float* value,
                             int64_t value_stride, const float* cosines, const float* sines, float* out,
                             int64_t sentences, int64_t beams, int64_t heads, int64_t groups, int64_t width,
                             int64_t capacity, int64_t slots, int64_t span, int64_t begin, float scale, float softcap,
                             int32_t threads) {
  threads = ld4lg::useful_threads(threads, sentences * beams * heads * groups * (span - begin) * width / 4);
  const ld4lg::CachedAttention args{
    query,  query_stride, keys,      values,   chosen, bias,  bias_sentence_stride, bias_head_stride, key, value,
    key_stride, value_stride, cosines, sines, out, sentences, beams, heads, groups, width,
    capacity, slots, span, begin, scale, softcap, threads};
  return LD4LG_CALL(cached_attention, args);
}
LD4LG_EXPORT_CALL(cached_attention)
