// The decoding rules, a row of the vocabulary at a time: what they change is a few tokens, so the row is read once
// for its softmax and once to be copied, and the tokens are then put right one by one.
#include "../logits_process.h"

#include <limits>
#include <memory>

#include "exp.h"
#include "rows.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

constexpr float kRuledOut = -std::numeric_limits<float>::infinity();

float maximum(const float* values, int64_t width) {
  float result = values[0];
#pragma omp simd reduction(max : result)
  for (int64_t i = 0; i < width; ++i) result = std::max(result, values[i]);
  return result;
}

// log of the sum of e^value; blocks are added up in double, so that a long row loses nothing.
float log_sum_exp(const float* values, int64_t width) {
  const float highest = maximum(values, width);
  if (!std::isfinite(highest)) return highest;
  constexpr int64_t kBlock = 512;
  double total = 0.0;
  for (int64_t start = 0; start < width; start += kBlock) {
    const int64_t end = std::min(start + kBlock, width);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = start; i < end; ++i) sum += exp_of_negative(values[i] - highest);
    total += sum;
  }
  return highest + static_cast<float>(std::log(total));
}

// Whether the n-1 tokens from `start` on are the last n-1 of the text.
bool repeats_the_end(const int64_t* ids, int64_t start, int64_t length, int64_t ngram_size) {
  return std::equal(ids + start, ids + start + ngram_size - 1, ids + length - ngram_size + 1);
}

// The best of a row's scores, from the highest on; of equal ones the first tokens come first.
void pick_best(const float* scores, int64_t vocabulary, int64_t count, float* best, int64_t* tokens) {
  constexpr int64_t kBlock = 128;
  int64_t found = 0;
  for (int64_t start = 0; start < vocabulary; start += kBlock) {
    const int64_t end = std::min(start + kBlock, vocabulary);
    if (found == count && !(maximum(scores + start, end - start) > best[count - 1])) continue;
    for (int64_t i = start; i < end; ++i) {
      if (found == count && !(scores[i] > best[count - 1])) continue;
      int64_t place = found < count ? found++ : count - 1;
      for (; place > 0 && scores[i] > best[place - 1]; --place) {
        best[place] = best[place - 1];
        tokens[place] = tokens[place - 1];
      }
      best[place] = scores[i];
      tokens[place] = i;
    }
  }
}

void process_row(const LogitsProcess& args, const float* logits, const int64_t* ids, float* scores) {
  if (args.forced >= 0) {
    std::fill(scores, scores + args.vocabulary, kRuledOut);
    scores[args.forced] = 0.0f;
    return;
  }
  const float shift = args.normalize ? log_sum_exp(logits, args.vocabulary) : 0.0f;
#pragma omp simd
  for (int64_t i = 0; i < args.vocabulary; ++i) scores[i] = logits[i] - shift;
  if (args.repetition_penalty != 1.0f) {
    for (int64_t i = 0; i < args.length; ++i) {
      const float score = logits[ids[i]] - shift;
      scores[ids[i]] = score < 0 ? score * args.repetition_penalty : score / args.repetition_penalty;
    }
  }
  if (args.ngram_size > 0) {
    for (int64_t i = 0; i + args.ngram_size <= args.length; ++i) {
      if (repeats_the_end(ids, i, args.length, args.ngram_size)) scores[ids[i + args.ngram_size - 1]] = kRuledOut;
    }
  }
  if (args.length < args.min_length) {
    for (int64_t i = 0; i < args.num_eos; ++i) scores[args.eos[i]] = kRuledOut;
  }
}

}  // namespace

void logits_process(const LogitsProcess& args) {
#pragma omp parallel num_threads(args.threads) if (args.threads > 1)
  {
    const bool widen_rows = args.logits.dtype != DType::kFloat32;
    const std::unique_ptr<float[]> buffer(widen_rows ? new float[args.vocabulary] : nullptr);
    const std::unique_ptr<float[]> own_scores(args.scores == nullptr ? new float[args.vocabulary] : nullptr);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < args.rows; ++row) {
      const float* logits = read_row(args.logits, row, args.vocabulary, buffer.get());
      float* const scores = args.scores == nullptr ? own_scores.get() : args.scores + row * args.vocabulary;
      process_row(args, logits, args.ids + row * args.ids_stride, scores);
      if (args.count > 0)
        pick_best(scores, args.vocabulary, args.count, args.best + row * args.count, args.tokens + row * args.count);
    }
  }
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
