// A register's worth of float32.
#pragma once

#include <cstdint>
#include <cstring>

namespace ld4lg {
namespace {

#if defined(__AVX512F__)
constexpr int kVector = 16;
#elif defined(__AVX2__)
constexpr int kVector = 8;
#else
constexpr int kVector = 4;
#endif
typedef float Vector __attribute__((vector_size(4 * kVector)));
// A vector in a row, with the alignment of float. A type of its own: templates drop alignment attributes.
typedef float VectorInRow __attribute__((vector_size(4 * kVector), aligned(4), may_alias));

// Loads as many elements as the last argument has: one expression serves the vectors of a row and its last elements.
inline Vector load(const float* values, Vector) { return *reinterpret_cast<const VectorInRow*>(values); }
inline float load(const float* values, float) { return *values; }
inline void store(float* values, Vector vector) { *reinterpret_cast<VectorInRow*>(values) = vector; }
inline void store(float* values, float value) { *values = value; }

// Calls `body(i, kind)` for each vector of a row, and for each of the last elements.
template <typename Body>
inline void each(int64_t width, Body body) {
  int64_t i = 0;
  for (; i + kVector <= width; i += kVector) body(i, Vector{});
  for (; i < width; ++i) body(i, 0.0f);
}

template <int N>
struct Lanes {
  typedef float Vector __attribute__((vector_size(4 * N)));
};

// Reduces a vector to one element, halving it in each step.
template <int N = kVector, typename Join>
inline float joined(typename Lanes<N>::Vector vector, Join join) {
  if constexpr (N == 1) {
    return vector[0];
  } else {
    typename Lanes<N / 2>::Vector halves[2];
    std::memcpy(halves, &vector, sizeof halves);
    return joined<N / 2>(join(halves[0], halves[1]), join);
  }
}

inline float total(Vector vector) {
  return joined(vector, [](auto a, auto b) { return a + b; });
}

inline float maximum(Vector vector) {
  return joined(vector, [](auto a, auto b) { return a > b ? a : b; });
}

}  // namespace
}  // namespace ld4lg
