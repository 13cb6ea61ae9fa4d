#pragma once

#include "instruction_set.h"

namespace ld4lg {

struct PhiloxNormal {
  uint64_t seed;
  const int64_t* sample_ids;  // samples
  int64_t samples;
  uint32_t stream;
  int64_t size;  // of a sample
  float* out;    // samples x size
  int32_t threads;
};

LD4LG_IN_EVERY_VARIANT(void philox_normal(const PhiloxNormal& args);)

}  // namespace ld4lg
