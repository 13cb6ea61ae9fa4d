// Network output to x_start, z_next and the network's next input, a latent vector at a time.
#include "../sampler_step.h"

#include <algorithm>

#include "philox.h"
#include "rows.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

// The noise of a sample's elements [begin, end) in the step at `place`; `drawn` holds as many.
void draw(const SamplerStep& args, int64_t sample, int64_t place, int64_t begin, int64_t end, float* noise,
          float* drawn) {
  const int64_t size = end - begin;
  const int64_t* const streams = args.streams + place * args.columns;
  const float* const weights = args.weights + place * args.columns;
  std::fill(noise, noise + size, 0.0f);
  for (int64_t k = 0; k < args.columns && weights[k] != 0.0f; ++k) {
    philox_normals(static_cast<uint64_t>(args.seed[sample * args.seed_stride]),
                   static_cast<uint64_t>(args.sample_ids[sample]), static_cast<uint32_t>(streams[k]), begin, end, drawn);
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) noise[i] += weights[k] * drawn[i];
  }
}

// Rows [begin, end).
void run(const SamplerStep& args, int64_t begin, int64_t end, float* scratch) {
  const int64_t width = args.width;
  constexpr int64_t kCoefficients = 7;
  const int64_t noise_rows = sampler_step_noise_rows(width);
  float *const noise = scratch + 2 * width, *const drawn = noise + noise_rows * width;
  int64_t noise_begin = begin, noise_end = begin;  // the rows whose noise is there
  for (int64_t row = begin; row < end; ++row) {
    const int64_t sample = row / args.positions, step = args.step[sample * args.step_stride];
    const int64_t place = step + (args.first == nullptr ? 0 : args.first[sample]);
    const float* const c = args.coefficients + place * kCoefficients;
    const float* const z = args.z + row * width;
    float* const x_start = args.x_start + row * width;
    float* const z_next = args.z_next + row * width;
    const float* const cond = read_row(args.cond, row, width, scratch);
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) x_start[i] = c[0] * z[i] + c[1] * cond[i];
    if (args.uncond.data != nullptr) {
      const float* const uncond = read_row(args.uncond, row, width, scratch + width);
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) x_start[i] += c[2] * uncond[i];
    }
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) z_next[i] = c[3] * z[i] + c[4] * x_start[i];
    if (args.x_prev != nullptr) {
      const float* const x_prev = args.x_prev + row * width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) z_next[i] += c[5] * x_prev[i];
    }
    if (args.sample_ids != nullptr && c[6] != 0.0f) {
      if (row >= noise_end) {
        const int64_t sample_begin = sample * args.positions;
        noise_begin = row;
        noise_end = std::min({row + noise_rows, sample_begin + args.positions, end});
        draw(args, sample, place, (row - sample_begin) * width, (noise_end - sample_begin) * width, noise, drawn);
      }
      const float* const own = noise + (row - noise_begin) * width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) z_next[i] += c[6] * own[i];
    }
    write_row(args.next_z, row, width, z_next);
    if (args.next_x.data != nullptr) write_row(args.next_x, row, width, x_start);
  }
}

}  // namespace

void sampler_step(const SamplerStep& args) {
  const int64_t threads = args.threads, rows = args.samples * args.positions;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t part = 0; part < threads; ++part)
    run(args, part * rows / threads, (part + 1) * rows / threads, args.scratch + part * sampler_step_scratch(args.width));
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
