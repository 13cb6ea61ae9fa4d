// The decoding rules, one row of the vocabulary at a time. They change a few tokens, so the row is read once for its
// softmax and copied once, and then these tokens are corrected one by one. The best tokens are found among a few
// candidates without sorting the row.
#include "../logits_process.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "exp.h"
#include "rows.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

constexpr float kRuledOut = -std::numeric_limits<float>::infinity();
constexpr int64_t kBlock = 128;  // scores that are skipped together

// The maximum; NaN is ignored.
float maximum(const float* values, int64_t width) {
  float result = kRuledOut;
#pragma omp simd reduction(max : result)
  for (int64_t i = 0; i < width; ++i) result = std::max(result, values[i]);
  return result;
}

// The sum of e^(value - highest) over the values of at least `lowest`; blocks are added up in double, so that a long
// row loses nothing.
double sum_of_exp(const float* values, int64_t width, float highest, float lowest) {
  constexpr int64_t kSummed = 512;
  double total = 0.0;
  for (int64_t start = 0; start < width; start += kSummed) {
    const int64_t end = std::min(start + kSummed, width);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = start; i < end; ++i)  // selected before exp: a branch around it is not vectorized
      sum += exp_of_negative(values[i] < lowest ? kRuledOut : values[i] - highest);
    total += sum;
  }
  return total;
}

float log_sum_exp(const float* values, int64_t width) {
  const float highest = maximum(values, width);
  if (!std::isfinite(highest)) return highest;
  return highest + static_cast<float>(std::log(sum_of_exp(values, width, highest, kRuledOut)));
}

// Whether the n-1 tokens from `start` on equal the last n-1 of the text.
bool repeats_the_end(const int64_t* ids, int64_t start, int64_t length, int64_t ngram_size) {
  return std::equal(ids + start, ids + start + ngram_size - 1, ids + length - ngram_size + 1);
}

// The best scores of a row in descending order; equal scores in the order of their tokens.
void pick_best(const float* scores, int64_t vocabulary, int64_t count, float* best, int64_t* tokens) {
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

// Calls `body(i)` for every score of at least `lowest`, in the order of the tokens.
template <typename Body>
void each_from(const float* scores, int64_t vocabulary, float lowest, Body body) {
  for (int64_t start = 0; start < vocabulary; start += kBlock) {
    const int64_t end = std::min(start + kBlock, vocabulary);
    if (maximum(scores + start, end - start) < lowest) continue;
    for (int64_t i = start; i < end; ++i)
      if (scores[i] >= lowest) body(i);
  }
}

struct Candidate {
  float score, weight;
};

float median(float a, float b, float c) { return std::max(std::min(a, b), std::min(std::max(a, b), c)); }

// The lowest score such that all scores above it weigh less than `limit`: quickselect by weight. There are no
// candidates if all scores are NaN.
float lowest_kept(std::vector<Candidate>& candidates, double limit) {
  if (candidates.empty()) return kRuledOut;
  auto first = candidates.begin(), last = candidates.end();
  const auto weight = [](auto from, auto to) {
    double sum = 0.0;
    for (; from != to; ++from) sum += from->weight;
    return sum;
  };
  double above = 0.0;  // weight of the scores above [first, last), which contains the answer
  while (first != last) {
    const float pivot = median(first->score, first[(last - first) / 2].score, last[-1].score);
    const auto same = std::partition(first, last, [&](const Candidate& c) { return c.score > pivot; });
    const double higher = above + weight(first, same);
    if (higher >= limit) {
      last = same;
      continue;
    }
    first = std::partition(same, last, [&](const Candidate& c) { return c.score == pivot; });
    above = higher + weight(same, first);
    if (above >= limit || first == last) return pivot;
  }
  return kRuledOut;
}

// The lowest score to keep: of the top_k best, and among these of the smallest set with probability top_p.
float lowest_choice(const LogitsProcess& args, const float* scores, std::vector<Candidate>& candidates) {
  float lowest = kRuledOut;
  if (0 < args.top_k && args.top_k < args.vocabulary) {
    // The top_k-th highest of the blocks' maxima is a lower bound: top_k blocks have such a score.
    std::vector<float> peaks;
    for (int64_t start = 0; start < args.vocabulary; start += kBlock)
      peaks.push_back(std::max(kRuledOut, maximum(scores + start, std::min(kBlock, args.vocabulary - start))));
    const auto last = peaks.begin() + (args.top_k - 1);
    if (args.top_k <= static_cast<int64_t>(peaks.size())) {
      std::nth_element(peaks.begin(), last, peaks.end(), std::greater<float>());
      lowest = *last;
    }
    candidates.clear();
    each_from(scores, args.vocabulary, lowest, [&](int64_t i) { candidates.push_back({scores[i], 1.0f}); });
    lowest = lowest_kept(candidates, static_cast<double>(args.top_k));
  }
  if (args.top_p < 1.0f) {
    const float highest = maximum(scores, args.vocabulary);
    // All tokens below the bound together have less than the probability 1 - top_p.
    const float bound = highest - std::log(static_cast<float>(args.vocabulary) / (1.0f - args.top_p));
    candidates.clear();
    each_from(scores, args.vocabulary, std::max(lowest, bound),
              [&](int64_t i) { candidates.push_back({scores[i], exp_of_negative(scores[i] - highest)}); });
    const double total = sum_of_exp(scores, args.vocabulary, highest, lowest);
    lowest = std::max(lowest, lowest_kept(candidates, args.top_p * total));
  }
  return lowest;
}

// The first token whose cumulative probability exceeds the uniform number, among the scores of at least `lowest`.
int64_t draw(const float* scores, int64_t vocabulary, float lowest, double uniform) {
  const double highest = maximum(scores, vocabulary);
  double total = 0.0;
  each_from(scores, vocabulary, lowest, [&](int64_t i) { total += std::exp(scores[i] - highest); });
  double cumulative = 0.0;
  int64_t token = -1, last = 0;
  each_from(scores, vocabulary, lowest, [&](int64_t i) {
    if (token >= 0) return;
    cumulative += std::exp(scores[i] - highest);
    last = i;
    if (cumulative > uniform * total) token = i;
  });
  return token >= 0 ? token : last;
}

// Whether all ids are tokens of the vocabulary.
bool are_tokens(const int64_t* ids, int64_t count, int64_t vocabulary) {
  bool inside = true;
#pragma omp simd reduction(&& : inside)
  for (int64_t i = 0; i < count; ++i) inside = inside && ids[i] >= 0 && ids[i] < vocabulary;
  return inside;
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
    for (int64_t i = 0; i <= args.length - args.ngram_size; ++i) {
      if (repeats_the_end(ids, i, args.length, args.ngram_size)) scores[ids[i + args.ngram_size - 1]] = kRuledOut;
    }
  }
  if (args.length < args.min_length) {
    for (int64_t i = 0; i < args.num_eos; ++i) scores[args.eos[i]] = kRuledOut;
  }
}

}  // namespace

bool logits_process(const LogitsProcess& args) {
  bool inside = true;
#pragma omp parallel num_threads(args.threads) reduction(&& : inside) if (args.threads > 1)
  {
    const bool widen_rows = args.logits.dtype != DType::kFloat32;
    const std::unique_ptr<float[]> buffer(widen_rows ? new float[args.vocabulary] : nullptr);
    const std::unique_ptr<float[]> own_scores(args.scores == nullptr ? new float[args.vocabulary] : nullptr);
    std::vector<Candidate> candidates;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < args.rows; ++row) {
      const int64_t* const ids = args.ids + row * args.ids_stride;
      const bool valid = args.uniforms == nullptr || (args.uniforms[row] > 0.0 && args.uniforms[row] < 1.0);
      if (!valid || !are_tokens(ids, args.length, args.vocabulary)) {
        inside = false;
        continue;
      }
      const float* logits = read_row(args.logits, row, args.vocabulary, buffer.get());
      float* const scores = args.scores == nullptr ? own_scores.get() : args.scores + row * args.vocabulary;
      process_row(args, logits, ids, scores);
      if (args.temperature != 1.0f)
        for (int64_t i = 0; i < args.vocabulary; ++i) scores[i] /= args.temperature;
      const float lowest = lowest_choice(args, scores, candidates);
      if (args.scores != nullptr && lowest > kRuledOut)
        for (int64_t i = 0; i < args.vocabulary; ++i) scores[i] = scores[i] < lowest ? kRuledOut : scores[i];
      if (args.count > 0)
        pick_best(scores, args.vocabulary, args.count, args.best + row * args.count, args.tokens + row * args.count);
      if (args.uniforms != nullptr) args.tokens[row] = draw(scores, args.vocabulary, lowest, args.uniforms[row]);
    }
  }
  return inside;
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
