// Gradients of adaln_residual's vectors. With u and v a group's sums of g*n and g, they are weight*u + bias*v for
// scale, v for shift, the sum over groups of (1+scale)*u for weight and of (1+scale)*v for bias. Those of the next
// norm are the sums of all groups.
#include <algorithm>

#include "../adaln_residual.h"
#include "rows.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

constexpr int64_t kBlock = 128;  // columns whose totals stay in the first cache

void run(const AdalnResidualVectors& args, int64_t begin, int64_t width) {
  float totals[4][kBlock] = {}, wide[3][kBlock];
  const ConstRows scales = from_column(args.scale, begin);
  const float* const weight = read_row(from_column(args.weight, begin), 0, width, wide[0]);
  const float* const bias = read_row(from_column(args.bias, begin), 0, width, wide[1]);
  for (int64_t group = 0; group < args.groups; ++group) {
    float of_group[4][kBlock] = {};
    for (int64_t part = 0; part < args.parts; ++part)
      for (int64_t kind = 0; kind < args.kinds; ++kind) {
        const float* const sums = args.sums + ((group * args.parts + part) * args.kinds + kind) * args.width + begin;
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) of_group[kind][i] += sums[i];
      }
    const float* const scale = read_row(scales, group, width, wide[2]);
    float* const grad_scale = args.grad_scale + group * args.width + begin;
    float* const grad_shift = args.grad_shift + group * args.width + begin;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      const float along = of_group[0][i], plain = of_group[1][i];
      grad_scale[i] = weight[i] * along + bias[i] * plain;
      grad_shift[i] = plain;
      totals[0][i] += (1.0f + scale[i]) * along;
      totals[1][i] += (1.0f + scale[i]) * plain;
      totals[2][i] += of_group[2][i];
      totals[3][i] += of_group[3][i];
    }
  }
  for (int64_t kind = 0; kind < args.kinds; ++kind)
    std::copy(totals[kind], totals[kind] + width, args.grads + kind * args.width + begin);
}

}  // namespace

void adaln_residual_vectors(const AdalnResidualVectors& args) {
#pragma omp parallel for num_threads(args.threads) schedule(static) if (args.threads > 1)
  for (int64_t begin = 0; begin < args.width; begin += kBlock)
    run(args, begin, std::min(kBlock, args.width - begin));
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
