// A group of the weight's rows stays in the first cache while a few rows of x at a time are multiplied with it.
#include "../merged_linear.h"

#include <algorithm>

#include "rows.h"
#include "sigmoid.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

constexpr int kMaxRows = kVector == 16 ? 6 : kVector == 8 ? 3 : 2;  // whose sums fit the registers

// kGroup rows of a weight. While they are multiplied the next ones are fetched, `step` bytes for each vector of a row:
// otherwise the processor waits for memory with the first rows of x and for its multipliers with the others.
struct Group {
  const float* rows[kGroup];
  const char* next;
  int64_t step;
};

constexpr int64_t kLine = 64;

// Products of ROWS rows of x and the rows of a group.
template <int ROWS>
inline void multiply(const float* x, int64_t x_stride, const Group& group, int64_t inputs,
                     float (&result)[ROWS][kGroup]) {
  Vector sums[ROWS][kGroup] = {};
  const char* next = group.next;
  int64_t i = 0;
  for (; i + kVector <= inputs; i += kVector) {
    for (int64_t line = 0; line < group.step; line += kLine) __builtin_prefetch(next + line);
    next += group.step;
    Vector values[ROWS];
    for (int r = 0; r < ROWS; ++r) values[r] = load(x + r * x_stride + i, Vector{});
    for (int o = 0; o < kGroup; ++o) {
      const Vector factors = load(group.rows[o] + i, Vector{});
      for (int r = 0; r < ROWS; ++r) sums[r][o] += values[r] * factors;
    }
  }
  for (int r = 0; r < ROWS; ++r)
    for (int o = 0; o < kGroup; ++o) {
      result[r][o] = total(sums[r][o]);
      for (int64_t j = i; j < inputs; ++j) result[r][o] += x[r * x_stride + j] * group.rows[o][j];
    }
}

template <int ROWS>
inline void add_bias(const float* bias, int64_t first, int64_t width, float (&result)[ROWS][kGroup]) {
  if (bias == nullptr) return;
  for (int r = 0; r < ROWS; ++r)
    for (int64_t o = 0; o < width; ++o) result[r][o] += bias[first + o];
}

// Outputs `first` … of a part, behind `before` outputs of other parts; `groups` are of the part and, for a GLU, of up.
struct Outputs {
  int64_t part, before, first;
  Group groups[2];
};

template <int ROWS>
void run_rows(const MergedLinear& args, const Outputs& outputs, int64_t row) {
  const int64_t first = outputs.first, column = outputs.before + first;
  const int64_t width = std::min<int64_t>(kGroup, args.outputs[outputs.part] - first);
  const float* const x = args.x + row * args.x_stride;
  float result[ROWS][kGroup];
  multiply<ROWS>(x, args.x_stride, outputs.groups[0], args.inputs, result);
  add_bias<ROWS>(args.biases[outputs.part], first, width, result);
  if (args.glu != Glu::kNone) {
    float up[ROWS][kGroup];
    multiply<ROWS>(x, args.x_stride, outputs.groups[1], args.inputs, up);
    add_bias<ROWS>(args.biases[1], first, width, up);
    float *const gates = &result[0][0], *const ups = &up[0][0];
    if (args.glu == Glu::kSilu)
#pragma omp simd
      for (int i = 0; i < ROWS * kGroup; ++i) gates[i] = silu(gates[i]) * ups[i];
    else
#pragma omp simd
      for (int i = 0; i < ROWS * kGroup; ++i) gates[i] = gelu_tanh(gates[i]) * ups[i];
  }
  for (int r = 0; r < ROWS; ++r) {
    if (args.residual != nullptr) {
      const float* const residual = args.residual + (row + r) * args.residual_stride + column;
      for (int64_t o = 0; o < width; ++o) result[r][o] += residual[o];
    }
    std::copy(result[r], result[r] + width, args.y + (row + r) * args.y_stride + column);
  }
}

template <int ROWS = kMaxRows>
void run_some(const MergedLinear& args, const Outputs& outputs, int64_t row, int64_t rows) {
  if (rows == ROWS) return run_rows<ROWS>(args, outputs, row);
  if constexpr (ROWS > 1) run_some<ROWS - 1>(args, outputs, row, rows);
}

// The rows of a weight that give outputs `first` …; bfloat16 is widened into `buffer`.
Group open_group(const MergedLinear& args, int64_t part, int64_t first, int64_t blocks, float* buffer) {
  const int64_t size = args.dtype == DType::kFloat32 ? sizeof(float) : sizeof(uint16_t);
  const int64_t vectors = std::max<int64_t>(1, args.inputs / kVector) * blocks;
  const char* const weight = static_cast<const char*>(args.weights[part]);
  Group group{{}, weight + (first + kGroup) * args.inputs * size, kGroup * args.inputs * size / vectors};
  const ConstRows rows{weight, args.inputs, args.dtype};
  for (int o = 0; o < kGroup; ++o)  // after the last output it is read again and not stored
    group.rows[o] = read_row(rows, std::min(first + o, args.outputs[part] - 1), args.inputs, buffer + o * args.inputs);
  return group;
}

}  // namespace

void merged_linear(const MergedLinear& args) {
  const bool glu = args.glu != Glu::kNone;
  const int64_t parts = glu ? 1 : args.parts;
  int64_t ends[kMostParts];  // groups of a part and those before it
  int64_t groups = 0;
  for (int64_t p = 0; p < parts; ++p) ends[p] = groups += (args.outputs[p] + kGroup - 1) / kGroup;
  const int64_t blocks = (args.rows + kMaxRows - 1) / kMaxRows, threads = args.threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t thread = 0; thread < threads; ++thread) {
    float* const buffer = args.scratch + thread * 2 * kGroup * args.inputs;
    for (int64_t group = thread * groups / threads; group < (thread + 1) * groups / threads; ++group) {
      Outputs outputs{0, 0, group * kGroup, {}};
      while (group >= ends[outputs.part]) {
        outputs.before += args.outputs[outputs.part];
        outputs.first = (group - ends[outputs.part++]) * kGroup;
      }
      outputs.groups[0] = open_group(args, outputs.part, outputs.first, blocks, buffer);
      if (glu) outputs.groups[1] = open_group(args, 1, outputs.first, blocks, buffer + kGroup * args.inputs);
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t begin = block * args.rows / blocks, end = (block + 1) * args.rows / blocks;
        run_some(args, outputs, begin, end - begin);
        for (Group& done : outputs.groups) done.next += args.inputs / kVector * done.step;
      }
    }
  }
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
