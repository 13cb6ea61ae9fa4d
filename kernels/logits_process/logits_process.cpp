// The C interface of the decoding rules.
#include "logits_process.h"

#include "call.h"

static bool is_token(int64_t token, int64_t vocabulary) { return token >= 0 && token < vocabulary; }

// logits_dtype: 0 float32, 1 bfloat16. length is one number, forced has one for every length. scores may be null.
// tokens are the best ones if count (at most vocabulary) is above 0, and sampled ones if uniforms is not null.
static bool logits_process(
    const void* logits, int64_t logits_stride, int32_t logits_dtype, const int64_t* ids, int64_t ids_stride,
    int64_t places, const int64_t* length, const int64_t* eos, int64_t num_eos, const int64_t* forced, int64_t min_length,
    float repetition_penalty, int64_t ngram_size, int32_t normalize, float temperature, int64_t top_k,
    float top_p, float* scores, int64_t count, float* best, const double* uniforms, int64_t* tokens, int64_t rows,
    int64_t vocabulary, int32_t threads) {
  if (*length < 0 || *length >= places) return false;
  const int64_t only = forced[*length];
  if (only != -1 && !is_token(only, vocabulary)) return false;
  for (int64_t i = 0; i < num_eos; ++i)
    if (!is_token(eos[i], vocabulary)) return false;
  const ld4lg::LogitsProcess args{
    {logits, logits_stride, ld4lg::DType{logits_dtype}},
    ids,
    ids_stride,
    *length,
    eos,
    num_eos,
    only,
    min_length,
    repetition_penalty,
    ngram_size,
    normalize != 0,
    temperature,
    top_k,
    top_p,
    scores,
    count,
    best,
    uniforms,
    tokens,
    rows,
    vocabulary,
    ld4lg::useful_threads(threads, rows * vocabulary)};
  return LD4LG_CALL(logits_process, args);
}
LD4LG_EXPORT_CALL(logits_process)
