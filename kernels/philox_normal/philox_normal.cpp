// The C interface of the noise.
#include "philox_normal.h"

#include "call.h"

static void philox_normal(uint64_t seed, const int64_t* sample_ids, int64_t samples, uint32_t stream,
                          int64_t size, float* out, int32_t threads) {
  // A normal costs about twice as much as an element of a memory-bound kernel.
  threads = ld4lg::useful_threads(threads, 2 * samples * size);
  const ld4lg::PhiloxNormal args{seed, sample_ids, samples, stream, size, out, threads};
  LD4LG_CALL(philox_normal, args);
}
LD4LG_EXPORT_CALL(philox_normal)
