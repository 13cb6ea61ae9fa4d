// A panel of the weight stays in the cache while a few rows at a time are multiplied with it.
#include "../linear.h"

#include <algorithm>

#include "gelu.h"
#include "vector.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

constexpr int kVectors = kPanel / kVector;
constexpr int kMaxRows = kVector == 16 ? 12 : kVector == 8 ? 6 : 3;  // whose sums fit the registers

// ROWS rows from `row` on by one panel.
template <int ROWS>
void multiply(const Linear& args, int64_t panel, int64_t row) {
  const float* weight = args.packed + panel * args.inputs * kPanel;
  const float* const x = args.x + row * args.x_stride;
  Vector sums[ROWS][kVectors] = {};
  for (int64_t i = 0; i < args.inputs; ++i, weight += kPanel) {
    Vector column[kVectors];
    for (int v = 0; v < kVectors; ++v) column[v] = load(weight + v * kVector, Vector{});
    for (int r = 0; r < ROWS; ++r) {
      const float factor = x[r * args.x_stride + i];
      for (int v = 0; v < kVectors; ++v) sums[r][v] += factor * column[v];
    }
  }
  const int64_t first = panel * kPanel;
  const int64_t width = std::min<int64_t>(kPanel, args.outputs - first);
  for (int r = 0; r < ROWS; ++r) {
    float line[kPanel];
    for (int v = 0; v < kVectors; ++v) store(line + v * kVector, sums[r][v]);
    float* const y = args.y + (row + r) * args.y_stride + first;
    const float* const residual =
        args.residual == nullptr ? nullptr : args.residual + (row + r) * args.residual_stride + first;
    if (args.bias != nullptr)
      for (int64_t j = 0; j < width; ++j) line[j] += args.bias[first + j];
    if (args.gelu)
#pragma omp simd
      for (int j = 0; j < kPanel; ++j) line[j] *= normal_cdf(line[j]);
    if (residual != nullptr)
      for (int64_t j = 0; j < width; ++j) line[j] += residual[j];
    std::copy(line, line + width, y);
  }
}

template <int ROWS>
void multiply_some(const Linear& args, int64_t panel, int64_t row, int64_t rows) {
  if (rows == ROWS) return multiply<ROWS>(args, panel, row);
  if constexpr (ROWS > 1) multiply_some<ROWS - 1>(args, panel, row, rows);
}

}  // namespace

void linear(const Linear& args) {
  const int64_t panels = (args.outputs + kPanel - 1) / kPanel;
  const int64_t blocks = (args.rows + kMaxRows - 1) / kMaxRows;
#pragma omp parallel for num_threads(args.threads) schedule(static) if (args.threads > 1)
  for (int64_t panel = 0; panel < panels; ++panel)
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t begin = block * args.rows / blocks, end = (block + 1) * args.rows / blocks;
      multiply_some<kMaxRows>(args, panel, begin, end - begin);
    }
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
