// -log softmax(logits)[target] of each row, and softmax - target in place of the logits: a row stays in the cache.
#include "../softmax_cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "exp.h"
#include "rows.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

constexpr int64_t kBlock = 1024;  // sums of blocks are added up in double, so that a long row loses nothing

bool run(const SoftmaxCrossEntropy& args, int64_t begin, int64_t end, float* scratch) {
  const int64_t width = args.width;
  const ConstRows source = {args.logits.data, args.logits.stride, args.logits.dtype};
  bool inside = true;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t target = args.targets[row];
    if (target < 0 || target >= width) {
      inside = false;
      continue;
    }
    const float* const logits = read_row(source, row, width, scratch);
    float* const powers = open_row(args.logits, row, scratch);
    float highest = -std::numeric_limits<float>::infinity();  // NaN is ignored
#pragma omp simd reduction(max : highest)
    for (int64_t i = 0; i < width; ++i) highest = std::max(highest, logits[i]);
    const float of_target = logits[target] - highest;
    double total = 0.0;
    for (int64_t start = 0; start < width; start += kBlock) {
      const int64_t stop = std::min(start + kBlock, width);
#pragma omp simd
      for (int64_t i = start; i < stop; ++i) powers[i] = exp_of_negative(logits[i] - highest);
      float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = start; i < stop; ++i) sum += powers[i];
      total += sum;
    }
    args.losses[row] = static_cast<float>(std::log(total)) - of_target;
    if (!args.with_gradients) continue;
    const float factor = static_cast<float>(1.0 / total);
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) powers[i] *= factor;
    powers[target] -= 1.0f;
    if (powers == scratch) write_row(args.logits, row, width, powers);  // else they already are in place
  }
  return inside;
}

}  // namespace

bool softmax_cross_entropy(const SoftmaxCrossEntropy& args) {
  bool inside = true;
#pragma omp parallel for num_threads(args.threads) schedule(static) reduction(&& : inside) if (args.threads > 1)
  for (int64_t part = 0; part < args.threads; ++part)
    inside = run(args, part * args.rows / args.threads, (part + 1) * args.rows / args.threads,
                 args.scratch + part * args.width) &&
             inside;
  return inside;
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
