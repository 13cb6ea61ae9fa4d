#pragma once

#include "instruction_set.h"
#include "matrix.h"

namespace ld4lg {

struct LogitsProcess {
  ConstRows logits;             // rows x vocabulary
  const int64_t* ids;           // rows x `length` tokens
  int64_t ids_stride, length;
  const int64_t* eos;           // num_eos tokens of the vocabulary, ruled out while length < min_length
  int64_t num_eos, forced;      // the only token that is allowed, of the vocabulary, or -1
  int64_t min_length;
  float repetition_penalty;
  int64_t ngram_size;           // 0: n-grams may repeat
  bool normalize;               // log-probabilities instead of logits
  float temperature;
  int64_t top_k;                // 0: all
  float top_p;                  // 1: all
  float* scores;                // rows x vocabulary, or null
  int64_t count;                // of the best scores, and their tokens, of every row: rows x count
  float* best;
  const double* uniforms;       // rows numbers in (0, 1) for sampling tokens, or null
  int64_t* tokens;
  int64_t rows, vocabulary;
  int32_t threads;
};

// False if an id is out of the vocabulary or a uniform number is not in (0, 1); such rows are skipped.
LD4LG_IN_EVERY_VARIANT(bool logits_process(const LogitsProcess& args);)

}  // namespace ld4lg
