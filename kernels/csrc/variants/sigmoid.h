#pragma once

#include <cmath>

#include "exp.h"

namespace ld4lg {
namespace {

// 1 / (1 + exp(-x)); 0 below the smallest exponent of `exp_of_negative`.
inline float sigmoid(float x) {
  const float e = exp_of_negative(-std::fabs(x)), s = 1.0f / (1.0f + e);
  return x < 0.0f ? e * s : s;
}

// GELU's approximation by a tanh: x · sigmoid(2 · sqrt(2 / pi) · (x + 0.044715 · x³)).
inline float gelu_tanh(float x) { return x * sigmoid(1.59576912f * (x + 0.044715f * x * x * x)); }

inline float silu(float x) { return x * sigmoid(x); }

}  // namespace
}  // namespace ld4lg
