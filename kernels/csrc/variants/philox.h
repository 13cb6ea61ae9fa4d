// Normal noise from Philox4x32-10 (Salmon et al. 2011) and Box-Muller: the mapping is in kernels/philox_normal/reference.py.
// Sixteen counters are worked on side by side. The normals are computed in double, by the series of the logarithm,
// sine and cosine to about 1e-16, so that the rounded float32 hardly depends on the instruction set.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace ld4lg {
namespace {

constexpr int kCounters = 16;

struct Words {
  uint32_t w[4][kCounters];
};

inline void philox4x32_10(Words& words, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
#pragma omp simd
    for (int i = 0; i < kCounters; ++i) {
      const uint64_t product0 = uint64_t{0xD2511F53u} * words.w[0][i];
      const uint64_t product1 = uint64_t{0xCD9E8D57u} * words.w[2][i];
      words.w[0][i] = static_cast<uint32_t>(product1 >> 32) ^ words.w[1][i] ^ key0;
      words.w[2][i] = static_cast<uint32_t>(product0 >> 32) ^ words.w[3][i] ^ key1;
      words.w[1][i] = static_cast<uint32_t>(product1);
      words.w[3][i] = static_cast<uint32_t>(product0);
    }
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

inline double from_bits(uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <int N>
inline double series(const double (&coefficients)[N], double x) {
  double result = coefficients[N - 1];
  for (int i = N - 2; i >= 0; --i) result = result * x + coefficients[i];
  return result;
}

// ln x of a positive normal number: x = 2^e * m with m from sqrt(1/2) to sqrt(2), ln m = 2 artanh((m - 1) / (m + 1)).
inline double logarithm(double x) {
  constexpr double kOddInverses[] = {2.0,        2.0 / 3.0,  2.0 / 5.0,  2.0 / 7.0,  2.0 / 9.0, 2.0 / 11.0,
                                     2.0 / 13.0, 2.0 / 15.0, 2.0 / 17.0, 2.0 / 19.0, 2.0 / 21.0};
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint64_t biased = (bits + (0x3FF0000000000000u - 0x3FE6A09E667F3BCDu)) >> 52;  // e + 1023
  // An integer below 2^52 in the low bits of 2^52: not every instruction set converts 64-bit integers.
  const double exponent = from_bits(biased | 0x4330000000000000u) - (4503599627370496.0 + 1023.0);
  const double m = from_bits(bits - (biased << 52) + 0x3FF0000000000000u);
  const double s = (m - 1.0) / (m + 1.0);
  return exponent * 0.6931471805599453 + s * series(kOddInverses, s * s);
}

// Two normals from two words.
inline void box_muller(uint32_t word0, uint32_t word1, float& first, float& second) {
  constexpr double kSine[] = {1.0,           -1.0 / 6,         1.0 / 120,          -1.0 / 5040, 1.0 / 362880,
                              -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000, 1.0 / 355687428096000};
  constexpr double kCosine[] = {1.0,           -1.0 / 2,        1.0 / 24,          -1.0 / 720,
                                1.0 / 40320,   -1.0 / 3628800,  1.0 / 479001600,   -1.0 / 87178291200,
                                1.0 / 20922789888000};
  constexpr double kUnit = 1.0 / 4294967296.0, kHalfPi = 1.5707963267948966;
  // Words are converted as signed numbers, for which there are instructions everywhere.
  const double u = (static_cast<double>(static_cast<int32_t>(word0 ^ 0x80000000u)) + 2147483648.5) * kUnit;
  const double radius = std::sqrt(-2.0 * logarithm(u));
  // The angle 2 pi (word1 + 1/2) / 2^32 as quarter turns and a rest between -1/2 and 1/2 of one.
  const uint32_t quarters = (word1 + 0x20000000u) >> 30;
  const int32_t rest = static_cast<int32_t>(word1 - (quarters << 30));
  const double angle = (static_cast<double>(rest) + 0.5) * (4.0 * kUnit * kHalfPi);
  const double square = angle * angle;
  const double sine = angle * series(kSine, square), cosine = series(kCosine, square);
  const bool odd = quarters & 1u;
  const double along = odd ? sine : cosine, across = odd ? cosine : sine;
  first = static_cast<float>(radius * ((quarters + 1u) & 2u ? -along : along));
  second = static_cast<float>(radius * (quarters & 2u ? -across : across));
}

// The elements [begin, end) of a sample's noise.
inline void philox_normals(uint64_t seed, uint64_t id, uint32_t stream, int64_t begin, int64_t end, float* out) {
  for (int64_t block = begin / 4; 4 * block < end; block += kCounters) {
    Words words;
    for (int i = 0; i < kCounters; ++i) {
      words.w[0][i] = static_cast<uint32_t>(block + i);
      words.w[1][i] = stream;
      words.w[2][i] = static_cast<uint32_t>(id);
      words.w[3][i] = static_cast<uint32_t>(id >> 32);
    }
    philox4x32_10(words, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
    float normals[4][kCounters];
#pragma omp simd
    for (int i = 0; i < kCounters; ++i) box_muller(words.w[0][i], words.w[1][i], normals[0][i], normals[1][i]);
#pragma omp simd
    for (int i = 0; i < kCounters; ++i) box_muller(words.w[2][i], words.w[3][i], normals[2][i], normals[3][i]);
    float ordered[4 * kCounters];
    for (int i = 0; i < kCounters; ++i)
      for (int j = 0; j < 4; ++j) ordered[4 * i + j] = normals[j][i];
    const int64_t first = std::max(begin, 4 * block), last = std::min(end, 4 * (block + kCounters));
    std::copy(ordered + (first - 4 * block), ordered + (last - 4 * block), out + (first - begin));
  }
}

}  // namespace
}  // namespace ld4lg
