// Network output to x_start, z_next and the network's next input, a latent vector at a time.
#include "../sampler_step.h"

#include "philox.h"
#include "rows.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

// Rows [begin, end); `scratch` holds three rows of float32.
void run(const SamplerStep& args, int64_t begin, int64_t end, float* scratch) {
  const int64_t width = args.width;
  constexpr int64_t kCoefficients = 7;
  float* const noise = scratch + 2 * width;
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
      const int64_t first = row % args.positions * width;
      philox_normals(static_cast<uint64_t>(args.seed[sample * args.seed_stride]),
                     static_cast<uint64_t>(args.sample_ids[sample]), args.stream + static_cast<uint32_t>(step), first,
                     first + width, noise);
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) z_next[i] += c[6] * noise[i];
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
    run(args, part * rows / threads, (part + 1) * rows / threads, args.scratch + part * 3 * args.width);
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
