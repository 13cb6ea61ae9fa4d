// value * GELU(gate) of a matmul and its bias, with dropout: one read, one write. Backward recomputes both halves
// from the matmul and adds up the columns of their gradients.
#include "../geglu.h"

#include <algorithm>

#include "gelu.h"
#include "rows.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

constexpr uint32_t kColumnStep = 0x9E3779B9u;

inline uint32_t mix(uint32_t word) {
  word = (word ^ (word >> 16)) * 0x85EBCA6Bu;
  word = (word ^ (word >> 13)) * 0xC2B2AE35u;
  return word ^ (word >> 16);
}

// Dropout factors of the columns of a row from `begin` on; the mapping is in kernels/geglu/reference.py.
void dropout_factors(const Dropout& dropout, int64_t row, int64_t begin, int64_t width, float* factors) {
  const uint32_t low = static_cast<uint32_t>(dropout.seed), high = static_cast<uint32_t>(dropout.seed >> 32);
  const uint32_t key = mix(mix(low ^ static_cast<uint32_t>(row)) ^ high) + static_cast<uint32_t>(begin) * kColumnStep;
  const uint32_t threshold = dropout.threshold;
  const float factor = dropout.factor;
#pragma omp simd
  for (int32_t i = 0; i < static_cast<int32_t>(width); ++i) {  // as wide as the words, so that both fill vectors
    const uint32_t word = mix(key + static_cast<uint32_t>(i) * kColumnStep);
    factors[i] = word >= threshold ? factor : 0.0f;
  }
}

// Columns of a row at a time: widened from bfloat16 they stay in the first cache.
constexpr int64_t kPart = 512;

void run(const Geglu& args, int64_t row, int64_t begin) {
  float values[kPart], gates[kPart];
  const int64_t width = std::min(kPart, args.width - begin);
  const float* const value = read_row(from_column(args.projected, begin), row, width, values);
  const float* const gate = read_row(from_column(args.projected, args.width + begin), row, width, gates);
  const float *const value_bias = args.bias + begin, *const gate_bias = value_bias + args.width;
  const Rows target = from_column(args.out, begin);
  float* const out = open_row(target, row, values);  // element i is read before it is written
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) {
    const float g = gate[i] + gate_bias[i];
    out[i] = (value[i] + value_bias[i]) * (g * normal_cdf(g));
  }
  if (args.dropout.factor != 0.0f) {
    dropout_factors(args.dropout, row, begin, width, gates);
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) out[i] *= gates[i];
  }
  if (target.dtype != DType::kFloat32) write_row(target, row, width, out);
}

// A square of the result, kVector x kVector if `whole`: computed along the columns, transposed in the first cache,
// stored along the rows.
template <bool whole>
void run_square(const GegluOfColumns& args, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  if constexpr (whole) rows = columns = kVector;
  float square[kVector * kVector];
  const float *const value_bias = args.bias, *const gate_bias = args.bias + args.width;
  for (int64_t i = 0; i < columns; ++i) {
    const float* const values = args.projected + (column + i) * args.stride + row;
    const float* const gates = values + args.width * args.stride;
#pragma omp simd
    for (int64_t j = 0; j < rows; ++j) {
      const float g = gates[j] + gate_bias[column + i];
      square[i * kVector + j] = (values[j] + value_bias[column + i]) * (g * normal_cdf(g));
    }
  }
  for (int64_t j = 0; j < rows; ++j) {
    float* const out = args.out + (row + j) * args.width + column;
#pragma omp simd
    for (int64_t i = 0; i < columns; ++i) out[i] = square[i * kVector + j];
  }
}

void run_backward(const GegluBackward& args, int64_t part, float* scratch) {
  const int64_t width = args.width;
  float* const value_sums = args.sums + part * 2 * width;
  float* const gate_sums = value_sums + width;
  std::fill(value_sums, value_sums + 2 * width, 0.0f);
  const float *const value_bias = args.bias, *const gate_bias = args.bias + width;
  const int64_t end = std::min(args.rows, (part + 1) * args.rows_per_part);
  for (int64_t row = part * args.rows_per_part; row < end; ++row) {
    const float* const value = read_row(args.projected, row, 2 * width, scratch);
    const float* const gate = value + width;
    const float* grad = read_row(args.grad, row, width, scratch + 2 * width);
    if (args.dropout.factor != 0.0f) {
      float* const kept = scratch + 3 * width;
      dropout_factors(args.dropout, row, 0, width, kept);
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) kept[i] *= grad[i];
      grad = kept;
    }
    float* const grad_value = open_row(args.grad_projected, row, scratch);
    float* const grad_gate = grad_value + width;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      const float g = gate[i] + gate_bias[i];
      const float of_value = grad[i] * (g * normal_cdf(g));
      const float of_gate = grad[i] * (value[i] + value_bias[i]) * gelu_slope(g);
      grad_value[i] = of_value;
      grad_gate[i] = of_gate;
      value_sums[i] += of_value;
      gate_sums[i] += of_gate;
    }
    if (args.grad_projected.dtype != DType::kFloat32) write_row(args.grad_projected, row, 2 * width, grad_value);
  }
}

}  // namespace

void geglu(const Geglu& args) {
  const int64_t threads = args.threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t part = 0; part < threads; ++part)
    for (int64_t row = part * args.rows / threads; row < (part + 1) * args.rows / threads; ++row)
      for (int64_t begin = 0; begin < args.width; begin += kPart) run(args, row, begin);
}

void geglu_of_columns(const GegluOfColumns& args) {
  const int64_t threads = args.threads;
  const int64_t bands = (args.width + kVector - 1) / kVector;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t part = 0; part < threads; ++part)
    for (int64_t band = part * bands / threads; band < (part + 1) * bands / threads; ++band)
      for (int64_t row = 0; row < args.rows; row += kVector) {
        const int64_t rows = std::min<int64_t>(kVector, args.rows - row);
        const int64_t columns = std::min<int64_t>(kVector, args.width - band * kVector);
        if (rows == kVector && columns == kVector)
          run_square<true>(args, row, rows, band * kVector, columns);
        else
          run_square<false>(args, row, rows, band * kVector, columns);
      }
}

void geglu_backward(const GegluBackward& args) {
  const int64_t threads = args.threads;
  const int64_t parts = (args.rows + args.rows_per_part - 1) / args.rows_per_part;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t slice = 0; slice < threads; ++slice)
    for (int64_t part = slice * parts / threads; part < (slice + 1) * parts / threads; ++part)
      run_backward(args, part, args.scratch + slice * 5 * args.width);
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
