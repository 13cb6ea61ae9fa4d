// Normal noise from Philox4x32-10 (Salmon et al. 2011) and Box-Muller: the mapping is in kernels/plain/philox_normal.py.
#include "instruction_set.h"

#include <cmath>

namespace {

struct Words {
  uint32_t w[4];
};

Words philox4x32_10(Words counter, uint32_t key0, uint32_t key1) {
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
void box_muller(uint32_t word0, uint32_t word1, float* normals) {
  constexpr double kTwoPi = 6.283185307179586;
  constexpr double kUnit = 1.0 / 4294967296.0;
  const double radius = std::sqrt(-2.0 * std::log((word0 + 0.5) * kUnit));
  const double angle = (word1 + 0.5) * kUnit * kTwoPi;
  normals[0] = static_cast<float>(radius * std::cos(angle));
  normals[1] = static_cast<float>(radius * std::sin(angle));
}

// out (samples x size).
void philox_normal(uint64_t seed, const int64_t* sample_ids, int64_t samples, uint32_t stream, int64_t size,
                   float* out, int32_t threads) {
  const int64_t blocks = (size + 3) / 4;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t index = 0; index < samples * blocks; ++index) {
    const int64_t sample = index / blocks, block = index % blocks;
    const uint64_t id = static_cast<uint64_t>(sample_ids[sample]);
    const Words counter = {{static_cast<uint32_t>(block), stream, static_cast<uint32_t>(id),
                            static_cast<uint32_t>(id >> 32)}};
    const Words words = philox4x32_10(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
    float normals[4];
    box_muller(words.w[0], words.w[1], normals);
    box_muller(words.w[2], words.w[3], normals + 2);
    for (int64_t i = 4 * block; i < size && i < 4 * block + 4; ++i) out[sample * size + i] = normals[i - 4 * block];
  }
}

}  // namespace

LD4LG_EXPORT void ld4lg_philox_normal(uint64_t seed, const int64_t* sample_ids, int64_t samples, uint32_t stream,
                                      int64_t size, float* out, int32_t threads) {
  // A normal costs about eight times an element of a memory-bound kernel.
  philox_normal(seed, sample_ids, samples, stream, size, out, ld4lg::useful_threads(threads, 8 * samples * size));
}
