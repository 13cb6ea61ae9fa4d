// Row-wise building blocks, written as loops that the compiler vectorises for the instruction set at hand.
// Everything is computed in float32; bfloat16 is widened on the way in and rounded to nearest even on the way out.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "../matrix.h"
#include "vector.h"

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

// Rounds `width` numbers into `target`.
inline void narrow_to(const float* values, int64_t width, uint16_t* target) {
  int64_t i = 0;
#if defined(__AVX512BF16__)
  for (; i + kVector <= width; i += kVector)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target + i),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(values + i))));
#endif
#pragma omp simd
  for (int64_t j = i; j < width; ++j) target[j] = narrow(values[j]);
}

// Asks for a row that is read next: the processor's own prefetching ends with the page.
inline void prefetch_row(const ConstRows& rows, int64_t row, int64_t width) {
  const int64_t element = rows.dtype == DType::kFloat32 ? 4 : 2;
  const char* const data = static_cast<const char*>(rows.data) + row * rows.stride * element;
  for (int64_t byte = 0; byte < width * element; byte += 64) __builtin_prefetch(data + byte);
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
  narrow_to(values, width, target);
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) values[i] = widen(target[i]);
}

// Stores a row of float32, rounded where the target is bfloat16.
inline void write_row(const Rows& rows, int64_t row, int64_t width, const float* values) {
  if (rows.dtype == DType::kFloat32) {
    float* target = static_cast<float*>(rows.data) + row * rows.stride;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) target[i] = values[i];
  } else {
    narrow_to(values, width, static_cast<uint16_t*>(rows.data) + row * rows.stride);
  }
}

// What `take` gives of each element, added up. Four sums at a time: a single one would wait for itself at every step.
template <typename Take>
inline float sum_over(int64_t width, Take take) {
  Vector sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kVector <= width; i += 4 * kVector)
    for (int j = 0; j < 4; ++j) sums[j] += take(i + j * kVector, Vector{});
  float result = total((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < width; ++i) result += take(i, 0.0f);
  return result;
}

// (value - center) * rstd + rest normalises. The mean is center - rest / rstd: a float32 far from zero is too coarse
// for it.
struct Moments {
  float center, rest, rstd;

  float mean() const { return center - rest / rstd; }
  template <typename Values>
  Values normalized(Values values) const { return (values - center) * rstd + rest; }
};

// Of `width` values with this sum, the variance as the mean of squared differences, both sums corrected by what the
// differences add up to (Chan, Golub & LeVeque 1983).
inline Moments moments(const float* values, int64_t width, float eps, float sum) {
  const float count = static_cast<float>(width), center = sum / count;
  Vector differences[2] = {}, squares[2] = {};
  int64_t i = 0;
  for (; i + 2 * kVector <= width; i += 2 * kVector)
    for (int j = 0; j < 2; ++j) {
      const Vector difference = load(values + i + j * kVector, Vector{}) - center;
      differences[j] += difference;
      squares[j] += difference * difference;
    }
  float first = total(differences[0] + differences[1]), second = total(squares[0] + squares[1]);
  for (; i < width; ++i) {
    const float difference = values[i] - center;
    first += difference;
    second += difference * difference;
  }
  first /= count;
  const float rstd = 1.0f / std::sqrt(second / count - first * first + eps);
  return {center, -first * rstd, rstd};
}

}  // namespace
}  // namespace ld4lg
