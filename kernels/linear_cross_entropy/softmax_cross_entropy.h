#pragma once

#include "instruction_set.h"
#include "matrix.h"

namespace ld4lg {

struct SoftmaxCrossEntropy {
  Rows logits;             // rows x width; overwritten, `with_gradients` by softmax - target of each row
  const int64_t* targets;  // rows
  float* losses;           // rows
  int64_t rows, width;
  bool with_gradients;
  int32_t threads;
  float* scratch;  // threads x width
};

// False if a target is not in [0, width); such rows are skipped.
LD4LG_IN_EVERY_VARIANT(bool softmax_cross_entropy(const SoftmaxCrossEntropy& args);)

}  // namespace ld4lg
