// Gradients of adaln_residual. With g the gradient of x and n, m the normalised h and x, each part of a group adds
// up the columns of g*n, g, grad_y*m and grad_y, from which the gradients of weights, scale and shift follow.
#include "../adaln_residual.h"
#include "rows.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

struct Sums {
  float plain, along;  // sum of v, sum of v * n
};

// The gradient through a norm is rstd * (v - mean(v) - n * mean(v * n)) with v = grad * gain; this adds up v and
// v * n, and adds grad * n and grad to the sums of the columns.
inline Sums reduce(const float* grad, const float* gain, const float* values, Moments of, int64_t width,
                   float* columns_along, float* columns) {
  float plain = 0.0f, along = 0.0f;
#pragma omp simd reduction(+ : plain, along)
  for (int64_t i = 0; i < width; ++i) {
    const float normed = of.normalized(values[i]);
    const float inner = grad[i] * gain[i];
    columns_along[i] += grad[i] * normed;
    columns[i] += grad[i];
    plain += inner;
    along += inner * normed;
  }
  return {plain / static_cast<float>(width), along / static_cast<float>(width)};
}

void run(const AdalnResidualBackward& args, int64_t part, float* scratch) {
  const int64_t width = args.width;
  float* buffers[9];
  for (int i = 0; i < 9; ++i) buffers[i] = scratch + i * width;
  const bool has_next = args.next_weight.data != nullptr;
  const int64_t group = part / args.parts;
  const int64_t first = part % args.parts * args.rows_per_part;
  const int64_t last = first + args.rows_per_part < args.rows_per_group ? first + args.rows_per_part
                                                                          : args.rows_per_group;
  float* const sums = args.sums + part * (has_next ? 4 : 2) * width;
  for (int64_t i = 0; i < (has_next ? 4 : 2) * width; ++i) sums[i] = 0.0f;

  const float* const scale = read_row(args.scale, group, width, buffers[0]);
  const float* const weight = read_row(args.weight, 0, width, buffers[2]);
  float* const gain = buffers[1];
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) gain[i] = (1.0f + scale[i]) * weight[i];
  const float* const next_weight = has_next ? read_row(args.next_weight, 0, width, buffers[8]) : nullptr;

  for (int64_t row = group * args.rows_per_group + first; row < group * args.rows_per_group + last; ++row) {
    const float* grad = read_row(args.grad_x, row, width, buffers[2]);
    if (has_next) {
      const float* const grad_y = read_row(args.grad_y, row, width, buffers[3]);
      const float* const x = read_row(args.x, row, width, buffers[4]);
      const Moments of_x = {args.stats[2 * args.rows + row], 0.0f, args.stats[3 * args.rows + row]};
      const Sums mean = reduce(grad_y, next_weight, x, of_x, width, sums + 2 * width, sums + 3 * width);
      float* const total = buffers[5];
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        const float normed = of_x.normalized(x[i]);
        total[i] = grad[i] + of_x.rstd * (grad_y[i] * next_weight[i] - mean.plain - normed * mean.along);
      }
      write_row(args.grad_residual, row, width, total);
      grad = total;
    }
    const float* const h = read_row(args.h, row, width, buffers[6]);
    const Moments of_h = {args.stats[row], 0.0f, args.stats[args.rows + row]};
    const Sums mean = reduce(grad, gain, h, of_h, width, sums, sums + width);
    float* const grad_h = open_row(args.grad_h, row, buffers[7]);
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      const float normed = of_h.normalized(h[i]);
      grad_h[i] = of_h.rstd * (grad[i] * gain[i] - mean.plain - normed * mean.along);
    }
    finish_row(args.grad_h, row, width, grad_h);
  }
}

}  // namespace

void adaln_residual_backward(const AdalnResidualBackward& args) {
  const int64_t threads = args.threads;
  const int64_t total = args.rows / args.rows_per_group * args.parts;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t slice = 0; slice < threads; ++slice)
    for (int64_t part = slice * total / threads; part < (slice + 1) * total / threads; ++part)
      run(args, part, args.scratch + slice * kScratchRows * args.width);
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
