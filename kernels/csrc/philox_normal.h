#pragma once

#include <cstdint>

namespace ld4lg {

// out (samples x size): standard normal numbers that depend on (seed, sample id, stream, element) alone.
void philox_normal(uint64_t seed, const int64_t* sample_ids, int64_t samples, uint32_t stream, int64_t size,
                   float* out, int32_t threads);

}  // namespace ld4lg
