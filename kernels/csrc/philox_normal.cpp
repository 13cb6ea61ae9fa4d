// The C interface of the noise.
#include "instruction_set.h"
#include "philox.h"

#include <algorithm>

namespace {

constexpr int64_t kChunk = 256;  // elements, a multiple of four

// out (samples x size).
void philox_normal(uint64_t seed, const int64_t* sample_ids, int64_t samples, uint32_t stream, int64_t size,
                   float* out, int32_t threads) {
  const int64_t chunks = (size + kChunk - 1) / kChunk;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t index = 0; index < samples * chunks; ++index) {
    const int64_t sample = index / chunks, begin = index % chunks * kChunk;
    ld4lg::philox_normals(seed, static_cast<uint64_t>(sample_ids[sample]), stream, begin,
                          std::min(begin + kChunk, size), out + sample * size + begin);
  }
}

}  // namespace

LD4LG_EXPORT void ld4lg_philox_normal(uint64_t seed, const int64_t* sample_ids, int64_t samples, uint32_t stream,
                                      int64_t size, float* out, int32_t threads) {
  // A normal costs about eight times an element of a memory-bound kernel.
  philox_normal(seed, sample_ids, samples, stream, size, out, ld4lg::useful_threads(threads, 8 * samples * size));
}
