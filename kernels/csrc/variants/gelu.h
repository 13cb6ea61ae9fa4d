// The normal distribution and the slope of GELU without erf or exp: both are 1/2 plus an odd function of x that is
// flat beyond a few units, so x times a quotient of two polynomials of x*x gives it to about 1e-7. The coefficients
// are a minimax fit (iteratively reweighted least squares in float64).
#pragma once

namespace ld4lg {
namespace {

template <int N, typename T>
inline T polynomial(const float (&coefficients)[N], T x) {
  T result = T{} + coefficients[N - 1];
  for (int i = N - 2; i >= 0; --i) result = result * x + coefficients[i];
  return result;
}

// The probability that a standard normal number is below x; a float or a vector.
template <typename T>
inline T normal_cdf(T x) {
  const T end = T{} + 5.4f;  // 3e-8 from the end of the distribution
  constexpr float kOver[] = {0.398942245f,    0.0333714937f,  0.00465080349f,
                             0.000164313771f, 6.3599246e-06f, 2.33870718e-08f};
  constexpr float kUnder[] = {1.0f,           0.25031602f,     0.0283782596f,
                              0.00185893735f, 7.23974147e-05f, 1.21659368e-06f};
  const T below = x > end ? end : x;
  const T inner = below < -end ? -end : below;
  const T square = inner * inner;
  const T result = 0.5f + inner * (polynomial(kOver, square) / polynomial(kUnder, square));
  return x < -end ? T{} : result;  // exactly 0, since GELU multiplies it by x of any size
}

// The derivative of x * normal_cdf(x).
inline float gelu_slope(float x) {
  constexpr float kEnd = 5.8f;  // 1e-7 from the limit
  constexpr float kOver[] = {0.797885361f,     -0.0309951434f,  0.0142302525f,
                             1.92344611e-05f, 3.59556731e-05f, 1.92924398e-07f};
  constexpr float kUnder[] = {1.0f,           0.294494928f,    0.0409804503f,
                              0.00352305638f, 0.000192040397f, 8.95225776e-06f};
  const float inner = x > kEnd ? kEnd : x < -kEnd ? -kEnd : x;
  const float square = inner * inner;
  return 0.5f + inner * (polynomial(kOver, square) / polynomial(kUnder, square));
}

}  // namespace
}  // namespace ld4lg
