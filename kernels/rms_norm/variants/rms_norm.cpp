// A row at a time, read twice: the second time from the first cache.
#include "../rms_norm.h"

#include "rows.h"

namespace ld4lg {
namespace LD4LG_ISA {

void rms_norm(const RmsNorm& args) {
  const int64_t vectors = args.rows * args.groups, width = args.width;
#pragma omp parallel for num_threads(args.threads) schedule(static) if (args.threads > 1)
  for (int64_t n = 0; n < vectors; ++n) {
    const float* const x = args.x + n / args.groups * args.x_stride + n % args.groups * width;
    float* const y = args.y + n * width;
    float squares[1];
    add_up(width, squares, [&](int64_t i, auto& found) {
      const auto values = load(x + i, found[0]);
      found[0] += values * values;
    });
    const float factor = 1.0f / std::sqrt(squares[0] / static_cast<float>(width) + args.eps);
    each(width, [&](int64_t i, auto kind) { store(y + i, load(x + i, kind) * factor * load(args.weight + i, kind)); });
  }
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
