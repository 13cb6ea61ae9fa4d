// One text and head at a time: the keys of a head lie together, so that they stay in the cache for all its beams.
#include "../cached_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "exp.h"
#include "vector.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

// Work memory of a thread.
struct Work {
  explicit Work(const CachedAttention& args)
      : places(new int64_t[args.span]), scores(new float[args.span]), query(new float[args.width]) {}

  std::unique_ptr<int64_t[]> places;
  std::unique_ptr<float[]> scores, query;
};

// Rotary position embedding (Su et al. 2021): element i and i + width / 2 are a point of the plane.
inline void rotate(const CachedAttention& args, const float* from, float* to) {
  const int64_t half = args.width / 2;
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    const float first = from[i], second = from[i + half];
    to[i] = first * args.cosines[i] - second * args.sines[i];
    to[i + half] = second * args.cosines[i] + first * args.sines[i];
  }
}

// Stores the new key and value of a text in its beam's slot.
inline void store_new(const CachedAttention& args, int64_t text, int64_t head, int64_t base) {
  const int64_t place = base + ((args.span - 1) * args.slots + text % args.beams) * args.width;
  const float* const key = args.key + text * args.key_stride + head * args.width;
  const float* const value = args.value + text * args.value_stride + head * args.width;
  if (args.cosines != nullptr)
    rotate(args, key, args.keys + place);
  else
    std::copy(key, key + args.width, args.keys + place);
  std::copy(value, value + args.width, args.values + place);
}

// Places of a text's own keys in those of a head. False if a slot is out of range.
inline bool find_places(const CachedAttention& args, int64_t text, int64_t* places) {
  bool inside = true;
  for (int64_t t = args.begin; t < args.span; ++t) {
    int64_t slot = args.chosen == nullptr ? 0 : args.chosen[text * args.capacity + t];
    if (slot < 0 || slot >= args.slots) {
      inside = false;
      slot = 0;
    }
    places[t] = (t * args.slots + slot) * args.width;
  }
  return inside;
}

// WIDTH is the head's width, or 0 if it is known at run time only.
template <int WIDTH>
void attend(const CachedAttention& args, const float* query, const float* keys, const float* values, const float* bias,
            const Work& work, float* out) {
  const int64_t width = WIDTH > 0 ? WIDTH : args.width;
  const int64_t* const places = work.places.get();
  float* const scores = work.scores.get();
  float highest = -std::numeric_limits<float>::infinity();
  for (int64_t t = args.begin; t < args.span; ++t) {
    const float* const key = keys + places[t];
    float product = 0.0f;
#pragma omp simd reduction(+ : product)
    for (int64_t c = 0; c < width; ++c) product += query[c] * key[c];
    scores[t] = product * args.scale;
    if (args.softcap != 0.0f) scores[t] = args.softcap * std::tanh(scores[t] / args.softcap);
    if (bias != nullptr) scores[t] += bias[t];
    highest = std::max(highest, scores[t]);
  }
  float total = 0.0f;
#pragma omp simd reduction(+ : total)
  for (int64_t t = args.begin; t < args.span; ++t) {
    scores[t] = exp_of_negative(scores[t] - highest);
    total += scores[t];
  }
  int64_t c = 0;
  for (; c + kVector <= width; c += kVector) {
    Vector sum = {};
    for (int64_t t = args.begin; t < args.span; ++t) sum += scores[t] * load(values + places[t] + c, Vector{});
    store(out + c, sum / total);
  }
  for (; c < width; ++c) {
    float sum = 0.0f;
    for (int64_t t = args.begin; t < args.span; ++t) sum += scores[t] * values[places[t] + c];
    out[c] = sum / total;
  }
}

// All texts of a sentence by one head of its keys. False if a slot is out of range.
template <int WIDTH>
bool run(const CachedAttention& args, int64_t sentence, int64_t head, const Work& work) {
  const int64_t base = (sentence * args.heads + head) * args.capacity * args.slots * args.width;
  const int64_t first = sentence * args.beams;
  const float* bias = nullptr;
  if (args.bias != nullptr) bias = args.bias + sentence * args.bias_sentence_stride + head * args.bias_head_stride;
  if (args.key != nullptr)
    for (int64_t text = first; text < first + args.beams; ++text) store_new(args, text, head, base);
  bool inside = true;
  for (int64_t text = first; text < first + args.beams; ++text) {
    inside = find_places(args, text, work.places.get()) && inside;
    for (int64_t group = head * args.groups; group < (head + 1) * args.groups; ++group) {
      const float* query = args.query + text * args.query_stride + group * args.width;
      float* const out = args.out + (text * args.heads * args.groups + group) * args.width;
      if (args.cosines != nullptr) {
        rotate(args, query, work.query.get());
        query = work.query.get();
      }
      attend<WIDTH>(args, query, args.keys + base, args.values + base, bias, work, out);
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
    const Work work(args);
    const auto run_pair = args.width == 64 ? run<64> : run<0>;
#pragma omp for schedule(static)
    for (int64_t pair = 0; pair < pairs; ++pair)
      inside = run_pair(args, pair / args.heads, pair % args.heads, work) && inside;
  }
  return inside;
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
