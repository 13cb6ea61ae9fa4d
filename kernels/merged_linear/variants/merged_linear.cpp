// A group of the weight's rows stays in the first cache while a few rows of x at a time are multiplied with it.
#include "../merged_linear.h"

#include <algorithm>

#include "rows.h"
#include "sigmoid.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

constexpr int kGroup = 4;                                               // outputs at a time
constexpr int kMaxRows = kVector == 16 ? 6 : kVector == 8 ? 3 : 2;  // whose sums fit the registers

typedef uint32_t Words __attribute__((vector_size(4 * kVector), aligned(2), may_alias));

// What is read of a row of the weight at once. x has the factors of its vectors in the same order, see `arrange`.
struct Float32Weight {
  typedef float Number;
  static constexpr int kVectors = 1;

  static void read(const float* weight, Vector* values) { values[0] = load(weight, Vector{}); }
  static float one(const float* weight) { return *weight; }
};

// A word holds two numbers, which a shift and a mask widen: first those at even places, then those at odd ones.
struct BFloat16Weight {
  typedef uint16_t Number;
  static constexpr int kVectors = 2;

  static void read(const uint16_t* weight, Vector* values) {
    const Words words = *reinterpret_cast<const Words*>(weight);
    values[0] = reinterpret_cast<Vector>(words << 16);
    values[1] = reinterpret_cast<Vector>(words & 0xffff0000u);
  }
  static float one(const uint16_t* weight) { return widen(*weight); }
};

// Copies a row of x: of every 2 * kVector numbers first those at even places.
inline void arrange(const float* x, int64_t inputs, float* target) {
  int64_t i = 0;
  for (; i + 2 * kVector <= inputs; i += 2 * kVector)
    for (int j = 0; j < kVector; ++j) {
      target[i + j] = x[i + 2 * j];
      target[i + kVector + j] = x[i + 2 * j + 1];
    }
  std::copy(x + i, x + inputs, target + i);
}

// Products of ROWS rows of x and kGroup rows of a weight, of which the last may be the same: sums[r][o].
template <class Weight, int ROWS>
inline void multiply(const float* x, int64_t x_stride, const typename Weight::Number* const (&weight)[kGroup],
                     int64_t inputs, float (&result)[ROWS][kGroup]) {
  constexpr int64_t kStep = Weight::kVectors * kVector;
  Vector sums[ROWS][kGroup] = {};
  int64_t i = 0;
  for (; i + kStep <= inputs; i += kStep)
    for (int o = 0; o < kGroup; ++o) {
      Vector factors[Weight::kVectors];
      Weight::read(weight[o] + i, factors);
      for (int v = 0; v < Weight::kVectors; ++v)
        for (int r = 0; r < ROWS; ++r) sums[r][o] += load(x + r * x_stride + i + v * kVector, Vector{}) * factors[v];
    }
  for (int r = 0; r < ROWS; ++r)
    for (int o = 0; o < kGroup; ++o) {
      result[r][o] = total(sums[r][o]);
      for (int64_t j = i; j < inputs; ++j) result[r][o] += x[r * x_stride + j] * Weight::one(weight[o] + j);
    }
}

// ROWS rows from `row` on by outputs of part `part` from `first` on.
template <class Weight, int ROWS>
inline void multiply_part(const MergedLinear& args, int64_t part, int64_t first, int64_t row,
                          float (&result)[ROWS][kGroup]) {
  typedef typename Weight::Number Number;
  const Number* weight[kGroup];
  for (int o = 0; o < kGroup; ++o)  // after the last output it is read again and not stored
    weight[o] = static_cast<const Number*>(args.weights[part]) +
                std::min(first + o, args.outputs[part] - 1) * args.inputs;
  multiply<Weight, ROWS>(args.x + row * args.x_stride, args.x_stride, weight, args.inputs, result);
  if (const float* const bias = args.biases[part])
    for (int r = 0; r < ROWS; ++r)
      for (int64_t o = 0; o < std::min<int64_t>(kGroup, args.outputs[part] - first); ++o)
        result[r][o] += bias[first + o];
}

template <class Weight, int ROWS>
void run_rows(const MergedLinear& args, int64_t part, int64_t before, int64_t first, int64_t row) {
  float result[ROWS][kGroup];
  multiply_part<Weight, ROWS>(args, part, first, row, result);
  if (args.glu != Glu::kNone) {
    float up[ROWS][kGroup];
    multiply_part<Weight, ROWS>(args, 1, first, row, up);
    float *const gates = &result[0][0], *const ups = &up[0][0];
    if (args.glu == Glu::kSilu)
#pragma omp simd
      for (int i = 0; i < ROWS * kGroup; ++i) gates[i] = silu(gates[i]) * ups[i];
    else
#pragma omp simd
      for (int i = 0; i < ROWS * kGroup; ++i) gates[i] = gelu_tanh(gates[i]) * ups[i];
  }
  const int64_t width = std::min<int64_t>(kGroup, args.outputs[part] - first);
  for (int r = 0; r < ROWS; ++r) {
    float* const y = args.y + (row + r) * args.y_stride + before + first;
    if (args.residual != nullptr) {
      const float* const residual = args.residual + (row + r) * args.residual_stride + before + first;
      for (int64_t o = 0; o < width; ++o) result[r][o] += residual[o];
    }
    std::copy(result[r], result[r] + width, y);
  }
}

template <class Weight, int ROWS = kMaxRows>
void run_some(const MergedLinear& args, int64_t part, int64_t before, int64_t first, int64_t row, int64_t rows) {
  if (rows == ROWS) return run_rows<Weight, ROWS>(args, part, before, first, row);
  if constexpr (ROWS > 1) run_some<Weight, ROWS - 1>(args, part, before, first, row, rows);
}

template <class Weight>
void run(const MergedLinear& args) {
  const int64_t parts = args.glu == Glu::kNone ? args.parts : 1;
  int64_t ends[kMostParts];  // groups of a part and those before it
  int64_t groups = 0;
  for (int64_t p = 0; p < parts; ++p) ends[p] = groups += (args.outputs[p] + kGroup - 1) / kGroup;
  const int64_t blocks = (args.rows + kMaxRows - 1) / kMaxRows;
#pragma omp parallel for num_threads(args.threads) schedule(static) if (args.threads > 1)
  for (int64_t group = 0; group < groups; ++group) {
    int64_t part = 0, before = 0, first = group;
    while (group >= ends[part]) {
      before += args.outputs[part];
      first = group - ends[part++];
    }
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t begin = block * args.rows / blocks, end = (block + 1) * args.rows / blocks;
      run_some<Weight>(args, part, before, first * kGroup, begin, end - begin);
    }
  }
}

}  // namespace

void merged_linear(const MergedLinear& args) {
  if (args.dtype == DType::kFloat32) return run<Float32Weight>(args);
  MergedLinear arranged = args;
  arranged.x = args.scratch;
  arranged.x_stride = args.inputs;
  for (int64_t row = 0; row < args.rows; ++row)
    arrange(args.x + row * args.x_stride, args.inputs, args.scratch + row * args.inputs);
  run<BFloat16Weight>(arranged);
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
