// x = residual + (1 + scale) * LN(h) + shift, and y = LN(x): one read of each input, two writes.
#include "../adaln_residual.h"

#include <algorithm>

#include "rows.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

// Shared by the rows of a group: its gain and offset, the next norm's weight and bias.
struct Shared {
  const float *gain, *offset, *next_weight, *next_bias;
};

// R rows of a group from `row` on; `scratch` holds 3 * R rows of float32.
template <int R>
void run_rows(const AdalnResidual& args, int64_t row, const Shared& shared, float* scratch) {
  const int64_t width = args.width;
  const float *h[R], *residual[R];
  float *x[R], *y[R];
  for (int r = 0; r < R; ++r, scratch += 3 * width) {
    h[r] = read_row(args.h, row + r, width, scratch);
    residual[r] = read_row(args.residual, row + r, width, scratch + width);
    x[r] = open_row(args.x, row + r, scratch + 2 * width);
    y[r] = shared.next_weight == nullptr ? nullptr : open_row(args.y, row + r, scratch);  // h is no longer needed then
  }
  Moments of_h[R], of_x[R];
  moments(h, width, args.eps, of_h);
  const auto write_x = [&](int r, int64_t i, auto kind) {
    const auto normed = of_h[r].normalized(load(h[r] + i, kind));
    const auto sum = load(shared.gain + i, kind) * normed + load(residual[r] + i, kind) + load(shared.offset + i, kind);
    store(x[r] + i, sum);
    return sum;
  };
  // The statistics of x in the pass that computes it, once its first elements are there.
  float centers[R], sums[2 * R];
  each(std::min(width, kCentering), [&](int64_t i, auto kind) {
    for (int r = 0; r < R; ++r) write_x(r, i, kind);
  });
  find_centers(x, width, centers);
  add_up(width, sums, [&](int64_t i, auto& found) {
    for (int r = 0; r < R; ++r) add_moments(r, write_x(r, i, found[r]), centers[r], found);
  });
  for (int r = 0; r < R; ++r) {
    finish_row(args.x, row + r, width, x[r]);
    args.stats[row + r] = of_h[r].mean();
    args.stats[args.rows + row + r] = of_h[r].rstd;
  }
  if (shared.next_weight == nullptr) return;

  if (args.x.dtype == DType::kFloat32)
    close_moments(sums, centers, width, args.eps, of_x);
  else  // rounding to bfloat16 changed the moments
    moments(x, width, args.eps, of_x);
  each(width, [&](int64_t i, auto kind) {
    const auto times = load(shared.next_weight + i, kind), plus = load(shared.next_bias + i, kind);
    for (int r = 0; r < R; ++r) store(y[r] + i, of_x[r].normalized(load(x[r] + i, kind)) * times + plus);
  });
  for (int r = 0; r < R; ++r) {
    finish_row(args.y, row + r, width, y[r]);
    args.stats[2 * args.rows + row + r] = of_x[r].mean();
    args.stats[3 * args.rows + row + r] = of_x[r].rstd;
  }
}

// Rows [begin, end); `scratch` holds kScratchRows rows of float32. Two rows at a time: they share the reads of
// their group, and their sums overlap.
void run(const AdalnResidual& args, int64_t begin, int64_t end, float* scratch) {
  const int64_t width = args.width;
  float* const gain = scratch;
  float* const offset = gain + width;
  float* const buffers = offset + 3 * width;
  Shared shared = {gain, offset, nullptr, nullptr};
  if (args.next_weight.data != nullptr) {
    shared.next_weight = read_row(args.next_weight, 0, width, offset + width);
    shared.next_bias = read_row(args.next_bias, 0, width, offset + 2 * width);
  }
  for (int64_t row = begin; row < end;) {
    // (1 + scale) * (weight * n + bias) + shift = gain * n + offset, the same for all rows of a group.
    const int64_t group = row / args.rows_per_group;
    const int64_t stop = std::min(end, (group + 1) * args.rows_per_group);
    const float* const scale = read_row(args.scale, group, width, buffers);
    const float* const shift = read_row(args.shift, group, width, buffers + width);
    const float* const weight = read_row(args.weight, 0, width, buffers + 2 * width);
    const float* const bias = read_row(args.bias, 0, width, buffers + 3 * width);
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      gain[i] = (1.0f + scale[i]) * weight[i];
      offset[i] = (1.0f + scale[i]) * bias[i] + shift[i];
    }
    for (; row + 1 < stop; row += 2) run_rows<2>(args, row, shared, buffers);
    if (row < stop) run_rows<1>(args, row++, shared, buffers);
  }
  finish_streams();
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
