// Matmuls of the same few rows with several weights, which are read where they are: outputs side by side, or
// activation(gate) · up of two.
#pragma once

#include "instruction_set.h"
#include "matrix.h"

namespace ld4lg {

enum class Glu : int32_t { kNone = 0, kSilu = 1, kGeluTanh = 2 };

constexpr int kMostParts = 3;
constexpr int kGroup = 4;  // outputs at a time

struct MergedLinear {
  const float* x;  // rows x inputs
  int64_t x_stride;
  const void* weights[kMostParts];  // outputs[p] x inputs, without gaps
  const float* biases[kMostParts];  // null: none
  int64_t outputs[kMostParts];
  int64_t parts;
  DType dtype;            // of the weights
  Glu glu;                // of two weights with equally many outputs
  const float* residual;  // rows x all outputs, or null
  int64_t residual_stride;
  float* y;  // rows x all outputs
  int64_t y_stride, rows, inputs;
  int32_t threads;
  float* scratch;  // threads x 2 * kGroup x inputs, for weights in bfloat16
};

LD4LG_IN_EVERY_VARIANT(void merged_linear(const MergedLinear& args);)

}  // namespace ld4lg
