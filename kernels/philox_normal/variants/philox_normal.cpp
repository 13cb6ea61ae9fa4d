// Normal noise, each sample's own.
#include "../philox_normal.h"

#include "philox.h"

namespace ld4lg {
namespace LD4LG_ISA {

void philox_normal(const PhiloxNormal& args) {
  constexpr int64_t kChunk = 4 * kCounters;
  const int64_t threads = args.threads, chunks = (args.size + kChunk - 1) / kChunk;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t index = 0; index < args.samples * chunks; ++index) {
    const int64_t sample = index / chunks, begin = index % chunks * kChunk;
    philox_normals(args.seed, static_cast<uint64_t>(args.sample_ids[sample]), args.stream, begin,
                   std::min(begin + kChunk, args.size), args.out + sample * args.size + begin);
  }
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
