// A register's worth of float32.
#pragma once

namespace ld4lg {
namespace {

#if defined(__AVX512F__)
constexpr int kVector = 16;
#elif defined(__AVX2__)
constexpr int kVector = 8;
#else
constexpr int kVector = 4;
#endif
typedef float Vector __attribute__((vector_size(4 * kVector), aligned(4), may_alias));

// As many elements as the last argument has, so that one expression serves a row's vectors and its last elements.
inline Vector load(const float* values, Vector) { return *reinterpret_cast<const Vector*>(values); }
inline float load(const float* values, float) { return *values; }
inline void store(float* values, Vector vector) { *reinterpret_cast<Vector*>(values) = vector; }
inline void store(float* values, float value) { *values = value; }

inline float total(Vector vector) {
  float parts[kVector];
  store(parts, vector);
  for (int half = kVector / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) parts[i] += parts[half + i];
  return parts[0];
}

}  // namespace
}  // namespace ld4lg
