// Normal noise from Philox4x32-10 (Salmon et al. 2011) and Box-Muller: the mapping is in kernels/plain/philox_normal.py.
#pragma once

#include <cmath>
#include <cstdint>

namespace ld4lg {
namespace {

struct Words {
  uint32_t w[4];
};

inline Words philox4x32_10(Words counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter.w[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter.w[2];
    counter = {{static_cast<uint32_t>(product1 >> 32) ^ counter.w[1] ^ key0, static_cast<uint32_t>(product1),
                static_cast<uint32_t>(product0 >> 32) ^ counter.w[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// Two normals from two words, computed in double so that the rounded float32 does not depend on the maths library.
inline void box_muller(uint32_t word0, uint32_t word1, float* normals) {
  constexpr double kTwoPi = 6.283185307179586;
  constexpr double kUnit = 1.0 / 4294967296.0;
  const double radius = std::sqrt(-2.0 * std::log((word0 + 0.5) * kUnit));
  const double angle = (word1 + 0.5) * kUnit * kTwoPi;
  normals[0] = static_cast<float>(radius * std::cos(angle));
  normals[1] = static_cast<float>(radius * std::sin(angle));
}

// The elements [begin, end) of a sample's noise.
inline void philox_normals(uint64_t seed, uint64_t id, uint32_t stream, int64_t begin, int64_t end, float* out) {
  for (int64_t block = begin / 4; 4 * block < end; ++block) {
    const Words counter = {{static_cast<uint32_t>(block), stream, static_cast<uint32_t>(id),
                            static_cast<uint32_t>(id >> 32)}};
    const Words words = philox4x32_10(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
    float normals[4];
    box_muller(words.w[0], words.w[1], normals);
    box_muller(words.w[2], words.w[3], normals + 2);
    for (int64_t i = 4 * block; i < 4 * block + 4; ++i)
      if (begin <= i && i < end) out[i - begin] = normals[i - 4 * block];
  }
}

}  // namespace
}  // namespace ld4lg
