#pragma once

#include <cstdint>
#include <cstring>

namespace ld4lg {
namespace {

// exp(x) for x <= 0, to about an ulp: 2^n * e^r with |r| <= ln(2) / 2 (Taylor coefficients). NaN gives NaN, with
// n from a number. 0 below kSmallest: what is masked must not become a denormal number, with which all that follows
// is some ten times as slow.
inline float exp_of_negative(float x) {
  constexpr float kSmallest = -70.0f;
  const float inside = x > kSmallest ? x : kSmallest;  // also for NaN
  const int32_t n = static_cast<int32_t>(inside * 1.44269504f - 0.5f);
  const float r = (x - static_cast<float>(n) * 0.693359375f) + static_cast<float>(n) * 2.12194440e-4f;
  float e = 1.0f / 5040.0f;
  e = e * r + 1.0f / 720.0f;
  e = e * r + 1.0f / 120.0f;
  e = e * r + 1.0f / 24.0f;
  e = e * r + 1.0f / 6.0f;
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  const int32_t bits = (n + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return x < kSmallest ? 0.0f : e * power;
}

}  // namespace
}  // namespace ld4lg
