// Some panels of the weight stay in the cache while a few rows at a time are multiplied with them.
#include "../linear.h"

#include <algorithm>

#include "gelu.h"
#include "vector.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

constexpr int kPerPanel = kPanel / kVector;

typedef uint32_t Words __attribute__((vector_size(4 * kVector), aligned(4), may_alias));

// What is read of a weight at once: kOutputs columns, from input `i` of the panels that `group` begins with.
struct Float32Weight {
  static constexpr int kOutputs = kVector == 16 ? 2 * kPanel : kPanel;
  static constexpr int kMaxRows = kVector == 16 ? 12 : kVector == 8 ? 6 : 3;  // whose sums fit the registers

  const float* panels[kOutputs / kPanel];

  Float32Weight(const Linear& args, int64_t group) {
    constexpr int64_t kPanels = kOutputs / kPanel;
    const int64_t last = (args.outputs - 1) / kPanel;
    for (int64_t p = 0; p < kPanels; ++p)  // after the last panel it is read again and not stored
      panels[p] = static_cast<const float*>(args.packed) + std::min(group * kPanels + p, last) * args.inputs * kPanel;
  }

  void read(int64_t i, Vector* columns) const {
    for (int p = 0; p < kOutputs / kPanel; ++p)
      for (int v = 0; v < kPerPanel; ++v)
        columns[p * kPerPanel + v] = load(panels[p] + i * kPanel + v * kVector, Vector{});
  }
};

struct BFloat16Weight {
  static constexpr int kOutputs = 2 * kPanel;
  static constexpr int kMaxRows = kVector == 16 ? 12 : kVector == 8 ? 2 : 1;

  const uint32_t* panel;

  BFloat16Weight(const Linear& args, int64_t group)
      : panel(static_cast<const uint32_t*>(args.packed) + group * args.inputs * kPanel) {}

  void read(int64_t i, Vector* columns) const {
    for (int v = 0; v < kPerPanel; ++v) {
      const Words words = *reinterpret_cast<const Words*>(panel + i * kPanel + v * kVector);
      columns[v] = reinterpret_cast<Vector>(words << 16);
      columns[kPerPanel + v] = reinterpret_cast<Vector>(words & 0xffff0000u);
    }
  }
};

// Adds bias, GELU and residual to the sums in `line`, and stores up to COUNT outputs of a row from `first` on.
template <int COUNT>
inline void write_outputs(const Linear& args, int64_t row, int64_t first, float* line) {
  const int64_t width = std::min<int64_t>(COUNT, args.outputs - first);
  if (args.bias != nullptr)
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) line[j] += args.bias[first + j];
  if (args.gelu)
#pragma omp simd
    for (int j = 0; j < COUNT; ++j) line[j] *= normal_cdf(line[j]);
  if (args.residual != nullptr) {
    const float* const residual = args.residual + row * args.residual_stride + first;
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) line[j] += residual[j];
  }
  std::copy(line, line + width, args.y + row * args.y_stride + first);
}

// ROWS rows from `row` on by a group of outputs.
template <class Weight, int ROWS>
void multiply(const Linear& args, const Weight& weight, int64_t group, int64_t row) {
  constexpr int kVectors = Weight::kOutputs / kVector;
  const float* const x = args.x + row * args.x_stride;
  Vector sums[ROWS][kVectors] = {};
  for (int64_t i = 0; i < args.inputs; ++i) {
    Vector columns[kVectors];
    weight.read(i, columns);
    for (int r = 0; r < ROWS; ++r) {
      const float factor = x[r * args.x_stride + i];
      for (int v = 0; v < kVectors; ++v) sums[r][v] += factor * columns[v];
    }
  }
  for (int r = 0; r < ROWS; ++r) {
    float line[Weight::kOutputs];
    for (int v = 0; v < kVectors; ++v) store(line + v * kVector, sums[r][v]);
    write_outputs<Weight::kOutputs>(args, row + r, group * Weight::kOutputs, line);
  }
}

template <class Weight, int ROWS>
void multiply_some(const Linear& args, const Weight& weight, int64_t group, int64_t row, int64_t rows) {
  if (rows == ROWS) return multiply<Weight, ROWS>(args, weight, group, row);
  if constexpr (ROWS > 1) multiply_some<Weight, ROWS - 1>(args, weight, group, row, rows);
}

template <class Weight>
void run(const Linear& args) {
  const int64_t groups = (args.outputs + Weight::kOutputs - 1) / Weight::kOutputs;
  const int64_t blocks = (args.rows + Weight::kMaxRows - 1) / Weight::kMaxRows;
#pragma omp parallel for num_threads(args.threads) schedule(static) if (args.threads > 1)
  for (int64_t group = 0; group < groups; ++group)
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t begin = block * args.rows / blocks, end = (block + 1) * args.rows / blocks;
      multiply_some<Weight, Weight::kMaxRows>(args, Weight(args, group), group, begin, end - begin);
    }
}

}  // namespace

void linear(const Linear& args) {
  if (args.dtype == DType::kFloat32)
    run<Float32Weight>(args);
  else
    run<BFloat16Weight>(args);
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
