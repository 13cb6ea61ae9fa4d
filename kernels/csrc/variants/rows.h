// Row-wise building blocks, written as loops that the compiler vectorises for the instruction set at hand.
// Everything is computed in float32; bfloat16 is widened on the way in and rounded to nearest even on the way out.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../matrix.h"

namespace ld4lg {
namespace {

inline float widen(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

inline uint16_t narrow(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40u;
  return static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet_nan : rounded);
}

// The row as float32: in place where it already is, else widened into `buffer`.
inline const float* read_row(const ConstRows& rows, int64_t row, int64_t width, float* buffer) {
  if (rows.dtype == DType::kFloat32) return static_cast<const float*>(rows.data) + row * rows.stride;
  const uint16_t* source = static_cast<const uint16_t*>(rows.data) + row * rows.stride;
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) buffer[i] = widen(source[i]);
  return buffer;
}

// Where to compute a row that will be written: in place for float32, else in `buffer` (then call finish_row).
inline float* open_row(const Rows& rows, int64_t row, float* buffer) {
  return rows.dtype == DType::kFloat32 ? static_cast<float*>(rows.data) + row * rows.stride : buffer;
}

// Rounds a bfloat16 row into place, and `values` with it: what is computed from it next sees what was stored.
inline void finish_row(const Rows& rows, int64_t row, int64_t width, float* values) {
  if (rows.dtype == DType::kFloat32) return;
  uint16_t* target = static_cast<uint16_t*>(rows.data) + row * rows.stride;
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) {
    target[i] = narrow(values[i]);
    values[i] = widen(target[i]);
  }
}

// Stores a row of float32, rounded where the target is bfloat16.
inline void write_row(const Rows& rows, int64_t row, int64_t width, const float* values) {
  if (rows.dtype == DType::kFloat32) {
    float* target = static_cast<float*>(rows.data) + row * rows.stride;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) target[i] = values[i];
  } else {
    uint16_t* target = static_cast<uint16_t*>(rows.data) + row * rows.stride;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) target[i] = narrow(values[i]);
  }
}

// Four interleaved sums below: a single one would wait for itself at every addition.
inline float sum(const float* values, int64_t width) {
  const int64_t quarter = width / 4;
  const float *a = values, *b = a + quarter, *c = b + quarter, *d = c + quarter;
  float sum_a = 0.0f, sum_b = 0.0f, sum_c = 0.0f, sum_d = 0.0f;
#pragma omp simd reduction(+ : sum_a, sum_b, sum_c, sum_d)
  for (int64_t i = 0; i < quarter; ++i) {
    sum_a += a[i];
    sum_b += b[i];
    sum_c += c[i];
    sum_d += d[i];
  }
  for (int64_t i = 4 * quarter; i < width; ++i) sum_a += values[i];
  return (sum_a + sum_b) + (sum_c + sum_d);
}

inline float sum_of_squared_differences(const float* values, int64_t width, float mean) {
  const int64_t quarter = width / 4;
  const float *a = values, *b = a + quarter, *c = b + quarter, *d = c + quarter;
  float sum_a = 0.0f, sum_b = 0.0f, sum_c = 0.0f, sum_d = 0.0f;
#pragma omp simd reduction(+ : sum_a, sum_b, sum_c, sum_d)
  for (int64_t i = 0; i < quarter; ++i) {
    sum_a += (a[i] - mean) * (a[i] - mean);
    sum_b += (b[i] - mean) * (b[i] - mean);
    sum_c += (c[i] - mean) * (c[i] - mean);
    sum_d += (d[i] - mean) * (d[i] - mean);
  }
  for (int64_t i = 4 * quarter; i < width; ++i) sum_a += (values[i] - mean) * (values[i] - mean);
  return (sum_a + sum_b) + (sum_c + sum_d);
}

struct Moments {
  float mean, rstd;
};

// Mean and 1/sqrt(var + eps), the variance as the mean of squared differences.
inline Moments moments(const float* values, int64_t width, float eps) {
  const float mean = sum(values, width) / static_cast<float>(width);
  const float variance = sum_of_squared_differences(values, width, mean) / static_cast<float>(width);
  return {mean, 1.0f / std::sqrt(variance + eps)};
}

}  // namespace
}  // namespace ld4lg
