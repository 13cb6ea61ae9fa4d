#pragma once

#include <algorithm>

#include "instruction_set.h"
#include "matrix.h"

namespace ld4lg {

struct SamplerStep {
  ConstRows cond, uncond;      // samples * positions x width; uncond.data may be null
  const float *z, *x_prev;     // the same, contiguous; x_prev may be null
  const float* coefficients;   // seven in a row of the table
  const int64_t *step, *seed;  // of sample i at i * stride; the stride is 0 or 1
  int64_t step_stride, seed_stride;
  const int64_t* first;        // samples: the row of step 0; null: row 0
  const int64_t* sample_ids;   // samples, or null: no noise
  const int64_t* streams;      // of the noise, `columns` in a row of the table
  const float* weights;        // of the streams; the first 0 ends a row
  int64_t columns;
  float *z_next, *x_start;     // contiguous
  Rows next_z, next_x;         // the next input's two parts; next_x.data may be null
  int64_t samples, positions, width;
  int32_t threads;
  float* scratch;              // threads x sampler_step_scratch(width)
};

// Noise is drawn for as many rows at once as fill the lanes of philox.h, whose work is the same for fewer.
constexpr int64_t sampler_step_noise_rows(int64_t width) { return std::max<int64_t>(1, 64 / width); }

// Two rows of the output, and noise twice.
constexpr int64_t sampler_step_scratch(int64_t width) {
  return 2 * width + 2 * sampler_step_noise_rows(width) * width;
}

LD4LG_IN_EVERY_VARIANT(void sampler_step(const SamplerStep& args);)

}  // namespace ld4lg
