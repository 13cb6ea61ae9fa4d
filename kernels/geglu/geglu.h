#pragma once

#include "instruction_set.h"
#include "matrix.h"

namespace ld4lg {

// An element is dropped where its random word (kernels/geglu/reference.py) is below `threshold`, else multiplied by
// `factor`. The factor 0 means no dropout.
struct Dropout {
  uint64_t seed;
  uint32_t threshold;
  float factor;
};

struct Geglu {
  ConstRows projected;  // rows x 2 width: value | gate
  const float* bias;    // 2 width
  Rows out;             // rows x width
  Dropout dropout;
  int64_t rows, width;
  int32_t threads;
};

// The same for the transposed matmul, without dropout.
struct GegluOfColumns {
  const float* projected;  // 2 width x rows: value above gate
  int64_t stride;          // between the rows of projected
  const float* bias;       // 2 width
  float* out;              // rows x width
  int64_t rows, width;
  int32_t threads;
};

struct GegluBackward {
  ConstRows grad, projected;  // rows x width, rows x 2 width
  const float* bias;          // 2 width
  Rows grad_projected;        // rows x 2 width
  float* sums;                // 2 width for every rows_per_part rows
  Dropout dropout;
  int64_t rows, width, rows_per_part;
  int32_t threads;
  float* scratch;  // threads x 5 width
};

LD4LG_IN_EVERY_VARIANT(void geglu(const Geglu& args); void geglu_of_columns(const GegluOfColumns& args);
                         void geglu_backward(const GegluBackward& args);)

}  // namespace ld4lg
