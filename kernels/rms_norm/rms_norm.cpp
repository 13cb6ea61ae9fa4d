// The C interface of the root mean square norm.
#include "rms_norm.h"

#include "call.h"

static void rms_norm(const float* x, int64_t x_stride, const float* weight, float* y, int64_t rows, int64_t groups,
                     int64_t width, float eps, int32_t threads) {
  threads = ld4lg::useful_threads(threads, rows * groups * width);
  const ld4lg::RmsNorm args{x, x_stride, weight, y, rows, groups, width, eps, threads};
  LD4LG_CALL(rms_norm, args);
}
LD4LG_EXPORT_CALL(rms_norm)
