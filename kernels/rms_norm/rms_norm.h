// Root mean square norm of vectors, several of which may lie side by side in a row.
#pragma once

#include "instruction_set.h"

namespace ld4lg {

struct RmsNorm {
  const float* x;  // rows x groups * width
  int64_t x_stride;
  const float* weight;  // width
  float* y;             // rows x groups * width, without gaps
  int64_t rows, groups, width;
  float eps;
  int32_t threads;
};

LD4LG_IN_EVERY_VARIANT(void rms_norm(const RmsNorm& args);)

}  // namespace ld4lg
