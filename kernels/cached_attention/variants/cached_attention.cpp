// One text and head at a time: the keys of a head lie together, so that they stay in the cache for all its beams.
#include "../cached_attention.h"

#include <algorithm>
#include <limits>
#include <memory>

#include "exp.h"
#include "vector.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

// WIDTH is the head's width, or 0 if it is known at run time only. False if a slot is out of range.
template <int WIDTH>
bool attend(const CachedAttention& args, int64_t sentence, int64_t head, int64_t* places, float* scores) {
  const int64_t width = WIDTH > 0 ? WIDTH : args.width;
  const int64_t base = (sentence * args.heads + head) * args.capacity * args.slots * width;
  const float *const keys = args.keys + base, *const values = args.values + base;
  bool inside = true;
  for (int64_t text = sentence * args.beams; text < (sentence + 1) * args.beams; ++text) {
    const float* const query = args.query + text * args.query_stride + head * width;
    float* const out = args.out + (text * args.heads + head) * width;
    float highest = -std::numeric_limits<float>::infinity();
    for (int64_t t = 0; t < args.span; ++t) {
      int64_t slot = args.chosen == nullptr ? 0 : args.chosen[text * args.capacity + t];
      if (slot < 0 || slot >= args.slots) {
        inside = false;
        slot = 0;
      }
      places[t] = (t * args.slots + slot) * width;
      const float* const key = keys + places[t];
      float product = 0.0f;
#pragma omp simd reduction(+ : product)
      for (int64_t c = 0; c < width; ++c) product += query[c] * key[c];
      scores[t] = product * args.scale;
      if (args.bias != nullptr)
        scores[t] += args.bias[sentence * args.bias_sentence_stride + head * args.bias_head_stride + t];
      highest = std::max(highest, scores[t]);
    }
    float total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (int64_t t = 0; t < args.span; ++t) {
      scores[t] = exp_of_negative(scores[t] - highest);
      total += scores[t];
    }
    int64_t c = 0;
    for (; c + kVector <= width; c += kVector) {
      Vector sum = {};
      for (int64_t t = 0; t < args.span; ++t) sum += scores[t] * load(values + places[t] + c, Vector{});
      store(out + c, sum / total);
    }
    for (; c < width; ++c) {
      float sum = 0.0f;
      for (int64_t t = 0; t < args.span; ++t) sum += scores[t] * values[places[t] + c];
      out[c] = sum / total;
    }
  }
  return inside;
}

}  // namespace

bool cached_attention(const CachedAttention& args) {
  const int64_t pairs = args.sentences * args.heads;
  bool inside = true;
#pragma omp parallel num_threads(args.threads) reduction(&& : inside) if (args.threads > 1)
  {
    const std::unique_ptr<int64_t[]> places(new int64_t[args.span]);
    const std::unique_ptr<float[]> scores(new float[args.span]);
    const auto run = args.width == 64 ? attend<64> : attend<0>;
#pragma omp for schedule(static)
    for (int64_t pair = 0; pair < pairs; ++pair)
      inside = run(args, pair / args.heads, pair % args.heads, places.get(), scores.get()) && inside;
  }
  return inside;
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
