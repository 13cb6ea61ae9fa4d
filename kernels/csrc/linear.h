// y = x Wᵀ + bias, or its GELU, + residual for few rows x, with W packed for reading once.
#pragma once

#include "instruction_set.h"

namespace ld4lg {

// Outputs side by side in the packed weight: panel p holds W[16 p + j][i] at [p][i][j], zeros beyond the last output.
constexpr int kPanel = 16;

// Matrices of float32, strides in elements between rows; bias and residual may be null.
struct Linear {
  const float* x;
  int64_t x_stride;
  const float* packed;
  const float* bias;
  const float* residual;
  int64_t residual_stride;
  float* y;
  int64_t y_stride;
  int64_t rows, inputs, outputs;
  bool gelu;
  int32_t threads;
};

LD4LG_IN_EVERY_VARIANT(void linear(const Linear& args);)

}  // namespace ld4lg
