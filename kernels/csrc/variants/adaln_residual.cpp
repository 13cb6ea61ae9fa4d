// x = residual + (1 + scale) * LN(h) + shift, and y = LN(x): one read of each input, two writes.
#include "../adaln_residual.h"
#include "rows.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

// Rows [begin, end); `scratch` holds kScratchRows rows of float32.
void run(const AdalnResidual& args, int64_t begin, int64_t end, float* scratch) {
  const int64_t width = args.width;
  float* const gain = scratch;
  float* const offset = scratch + width;
  float* const buffers[4] = {scratch + 2 * width, scratch + 3 * width, scratch + 4 * width, scratch + 5 * width};
  int64_t group = -1;
  for (int64_t row = begin; row < end; ++row) {
    if (row / args.rows_per_group != group) {
      // (1 + scale) * (weight * n + bias) + shift = gain * n + offset, the same for all rows of a group.
      group = row / args.rows_per_group;
      const float* const scale = read_row(args.scale, group, width, buffers[0]);
      const float* const shift = read_row(args.shift, group, width, buffers[1]);
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        gain[i] = (1.0f + scale[i]) * args.weight[i];
        offset[i] = (1.0f + scale[i]) * args.bias[i] + shift[i];
      }
    }
    const float* const h = read_row(args.h, row, width, buffers[0]);
    const float* const residual = read_row(args.residual, row, width, buffers[1]);
    float* const x = open_row(args.x, row, buffers[2]);
    if (row + 1 < end) {
      prefetch_row(args.h, row + 1, width);
      prefetch_row(args.residual, row + 1, width);
    }
    const float sum_of_h = sum_over(width, [=](int64_t i, auto kind) { return load(h + i, kind); });
    const Moments of_h = moments(h, width, args.eps, sum_of_h);
    const float sum_of_x = sum_over(width, [=](int64_t i, auto kind) {
      const auto normed = of_h.normalized(load(h + i, kind));
      const auto sum = load(residual + i, kind) + load(gain + i, kind) * normed + load(offset + i, kind);
      store(x + i, sum);
      return sum;
    });
    finish_row(args.x, row, width, x);
    args.stats[row] = of_h.mean();
    args.stats[args.rows + row] = of_h.rstd;
    if (args.next_weight == nullptr) continue;

    float* const y = open_row(args.y, row, buffers[3]);
    // What was stored in bfloat16 has another sum than what was computed.
    const float sum_of_stored = args.x.dtype == DType::kFloat32 ? sum_of_x : sum_over(width, [=](int64_t i, auto kind) {
      return load(x + i, kind);
    });
    const Moments of_x = moments(x, width, args.eps, sum_of_stored);
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) y[i] = of_x.normalized(x[i]) * args.next_weight[i] + args.next_bias[i];
    finish_row(args.y, row, width, y);
    args.stats[2 * args.rows + row] = of_x.mean();
    args.stats[3 * args.rows + row] = of_x.rstd;
  }
}

}  // namespace

void adaln_residual(const AdalnResidual& args) {
  const int64_t threads = args.threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t part = 0; part < threads; ++part)
    run(args, part * args.rows / threads, (part + 1) * args.rows / threads,
        args.scratch + part * kScratchRows * args.width);
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
