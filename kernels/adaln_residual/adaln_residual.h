#pragma once

#include "instruction_set.h"
#include "matrix.h"

namespace ld4lg {

constexpr int64_t kScratchRows = 10;

struct AdalnResidual {
  ConstRows h, residual;              // rows x width
  ConstRows weight, bias;             // one row
  ConstRows scale, shift;             // groups x width; row r belongs to group r / rows_per_group
  ConstRows next_weight, next_bias;   // one row, or null: then y is not written
  Rows x, y;                          // rows x width
  float* stats;                       // (2 or 4) x rows: mean and 1/std of h, then of x
  int64_t rows, width, rows_per_group;
  float eps;
  int32_t threads;
  float* scratch;  // threads x kScratchRows x width
};

struct AdalnResidualBackward {
  ConstRows grad_x, grad_y, h, x;     // rows x width; grad_y and x only with next_weight
  ConstRows weight, next_weight;      // one row
  ConstRows scale;                    // groups x width
  const float* stats;                 // (2 or 4) x rows
  Rows grad_h, grad_residual;         // rows x width; grad_residual only with next_weight
  float* sums;                        // groups x parts x (2 or 4) x width
  int64_t rows, width, rows_per_group, rows_per_part, parts;
  int32_t threads;
  float* scratch;  // threads x kScratchRows x width
};

// Gradients of the vectors from the sums of the backward pass, all float32.
struct AdalnResidualVectors {
  const float* sums;                // groups x parts x kinds x width; kinds is 2, or 4 with a next norm
  int64_t groups, parts, kinds, width;
  ConstRows weight, bias;           // one row
  ConstRows scale;                  // groups x width
  float *grad_scale, *grad_shift;   // groups x width
  float* grads;                     // kinds x width: of weight, bias, next_weight, next_bias
  int32_t threads;
};

LD4LG_IN_EVERY_VARIANT(void adaln_residual(const AdalnResidual& args);
                       void adaln_residual_backward(const AdalnResidualBackward& args);
                       void adaln_residual_vectors(const AdalnResidualVectors& args);)

}  // namespace ld4lg
