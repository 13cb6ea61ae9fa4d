// y = x Wᵀ + bias, or its GELU, + residual for few rows x, with W packed for reading once.
#pragma once

#include "instruction_set.h"
#include "matrix.h"

namespace ld4lg {

// Outputs of a panel of the packed weight; zeros follow the last output. In float32, panel p holds W[16 p + j][i] at
// [p][i][j]. In bfloat16 it holds W[32 p + 16 h + j][i] at [p][i][j][h]: a word of 32 bits holds two outputs, which a
// shift and a mask widen.
constexpr int kPanel = 16;

// Strides in elements between rows; bias and residual may be null.
struct Linear {
  const float* x;
  int64_t x_stride;
  const void* packed;
  DType dtype;  // of the weight
  const float* bias;
  const float* residual;
  int64_t residual_stride;
  float* y;
  int64_t y_stride, rows, inputs, outputs;
  bool gelu;
  int32_t threads;
};

LD4LG_IN_EVERY_VARIANT(void linear(const Linear& args);)

}  // namespace ld4lg
