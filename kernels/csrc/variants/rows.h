// Row-wise building blocks, written as loops that the compiler vectorizes.
// Everything is computed in float32; bfloat16 is widened when read and rounded to nearest even when written.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "matrix.h"
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

// The same rows from a column on.
template <typename Matrix>
inline Matrix from_column(Matrix rows, int64_t column) {
  const int64_t bytes = column * (rows.dtype == DType::kFloat32 ? sizeof(float) : sizeof(uint16_t));
  rows.data = const_cast<char*>(static_cast<const char*>(rows.data)) + bytes;
  return rows;
}

// The row as float32: in place if it is float32, else widened into `buffer`.
inline const float* read_row(const ConstRows& rows, int64_t row, int64_t width, float* buffer) {
  if (rows.dtype == DType::kFloat32) return static_cast<const float*>(rows.data) + row * rows.stride;
  const uint16_t* source = static_cast<const uint16_t*>(rows.data) + row * rows.stride;
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) buffer[i] = widen(source[i]);
  return buffer;
}

// Copies a row past the caches: the target is not read first, and nothing is evicted.
inline void stream_to(const float* values, int64_t width, float* target) {
#if defined(__AVX512F__)
  for (int64_t i = 0; i < width; i += kVector) _mm512_stream_ps(target + i, _mm512_loadu_ps(values + i));
#elif defined(__AVX2__)
  for (int64_t i = 0; i < width; i += kVector) _mm256_stream_ps(target + i, _mm256_loadu_ps(values + i));
#else
  std::memcpy(target, values, width * sizeof(float));
#endif
}

// Makes streamed rows visible to other threads.
inline void finish_streams() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// Where to compute a row that will be written: in place for float32, else in `buffer` (then call finish_row).
inline float* open_row(const Rows& rows, int64_t row, float* buffer) {
  const bool in_place = rows.dtype == DType::kFloat32 && !rows.streamed;
  return in_place ? static_cast<float*>(rows.data) + row * rows.stride : buffer;
}

// Stores a row from its buffer, and rounds `values` to bfloat16 as well, so that later computations use the stored
// numbers.
inline void finish_row(const Rows& rows, int64_t row, int64_t width, float* values) {
  if (rows.streamed) stream_to(values, width, static_cast<float*>(rows.data) + row * rows.stride);
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

// N sums over a row: `add(i, sums)` adds elements i, i + 1, … to N vectors, or element i to N floats at the end of the
// row. Two sets of sums hide the latency of the additions.
template <int N, typename Add>
inline void add_up(int64_t width, float (&totals)[N], Add add) {
  Vector sums[2][N] = {};
  int64_t i = 0;
  for (; i + 2 * kVector <= width; i += 2 * kVector) {
    add(i, sums[0]);
    add(i + kVector, sums[1]);
  }
  for (int n = 0; n < N; ++n) totals[n] = total(sums[0][n] + sums[1][n]);
  for (; i < width; ++i) add(i, totals);
}

// (value - center) * rstd + rest normalizes. The mean is center - rest / rstd, which float32 may be too coarse for.
struct Moments {
  float center, rest, rstd;

  float mean() const { return center - rest / rstd; }
  template <typename Values>
  Values normalized(Values values) const { return (values - center) * rstd + rest; }
};

// Mean of the first elements of R rows. The mean of m of n numbers is within sqrt(n / m) standard deviations of the
// mean of all (Samuelson 1968): close enough to add up differences from it without cancellation, in one pass.
constexpr int64_t kCentering = 4 * kVector;

template <int R, typename Row>
inline void find_centers(Row* const (&rows)[R], int64_t width, float (&centers)[R]) {
  const int64_t some = width < kCentering ? width : kCentering;
  add_up(some, centers, [&](int64_t i, auto& found) {
    for (int r = 0; r < R; ++r) found[r] += load(rows[r] + i, found[r]);
  });
  for (float& center : centers) center /= static_cast<float>(some);
}

// Adds values of row r to its two sums for `close_moments`.
template <typename Values, typename Sums>
inline void add_moments(int r, Values values, float center, Sums& sums) {
  const auto difference = values - center;
  sums[2 * r] += difference;
  sums[2 * r + 1] += difference * difference;
}

template <int R>
inline void close_moments(const float (&sums)[2 * R], const float (&centers)[R], int64_t width, float eps,
                          Moments (&of)[R]) {
  const float count = static_cast<float>(width);
  for (int r = 0; r < R; ++r) {
    const float first = sums[2 * r] / count;
    const float rstd = 1.0f / std::sqrt(sums[2 * r + 1] / count - first * first + eps);
    of[r] = {centers[r], -first * rstd, rstd};
  }
}

template <int R, typename Row>
inline void moments(Row* const (&rows)[R], int64_t width, float eps, Moments (&of)[R]) {
  float centers[R], sums[2 * R];
  find_centers(rows, width, centers);
  add_up(width, sums, [&](int64_t i, auto& found) {
    for (int r = 0; r < R; ++r) add_moments(r, load(rows[r] + i, found[r]), centers[r], found);
  });
  close_moments(sums, centers, width, eps, of);
}

}  // namespace
}  // namespace ld4lg
