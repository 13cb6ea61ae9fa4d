// y = x Wᵀ + bias, or value · GELU(gate) of it, as a bfloat16 or int8 matmul with sums in float32 or int32.
#pragma once

#include "instruction_set.h"
#include "matrix.h"

namespace ld4lg {

enum class Narrow : int32_t { kBFloat16 = 0, kInt8 = 1 };

// Four bytes of adjacent inputs are a word: two bfloat16 or four int8 numbers. In the packed weight the words of 32
// outputs are adjacent: panel p has word w of output order[32 p + j] at [p][w][j], and zeros after the last output.
constexpr int kNarrowPanel = 32;

inline int64_t narrow_words(Narrow kind, int64_t inputs) {
  const int64_t size = kind == Narrow::kInt8 ? 4 : 2;
  return (inputs + size - 1) / size;
}

struct NarrowLinear {
  Narrow kind;
  ConstRows x;            // rows x inputs
  const uint32_t* packed;
  const float* scales;    // int8: scale of each output, in the panels' order
  const int32_t* sums;    // int8: sum of each output's weights, likewise
  const float* bias;      // in the panels' order, or null
  Rows y;                 // rows x outputs
  int64_t rows, inputs, outputs;
  bool geglu;             // a panel is 16 values and their 16 gates, which give 16 outputs
  int32_t threads;
  uint32_t* words;        // rows x narrow_words(kind, inputs): room for the rounded x
  float* row_scales;      // rows
  float* scratch;         // threads x inputs
};

LD4LG_IN_EVERY_VARIANT(void narrow_linear(const NarrowLinear& args);)

}  // namespace ld4lg
