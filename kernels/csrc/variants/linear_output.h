// What follows the sums of a product: bias, GELU, residual.
#pragma once

#include <algorithm>

#include "../linear.h"
#include "gelu.h"

namespace ld4lg {
namespace {

// Stores outputs `first` to `first + COUNT` of a row, as far as there are so many; `line` holds their sums.
template <int COUNT>
inline void write_outputs(const LinearOutput& out, int64_t row, int64_t first, float* line) {
  const int64_t width = std::min<int64_t>(COUNT, out.outputs - first);
  if (out.bias != nullptr)
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) line[j] += out.bias[first + j];
  if (out.gelu)
#pragma omp simd
    for (int j = 0; j < COUNT; ++j) line[j] *= normal_cdf(line[j]);
  if (out.residual != nullptr) {
    const float* const residual = out.residual + row * out.residual_stride + first;
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) line[j] += residual[j];
  }
  std::copy(line, line + width, out.y + row * out.y_stride + first);
}

}  // namespace
}  // namespace ld4lg
