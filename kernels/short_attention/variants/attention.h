// Shared by forward and backward of attention over short sequences: heads of 64 as float32, keys and values in
// panels of kColumnBlock columns, the probabilities of a few queries at a time.
#pragma once

#include "../short_attention.h"

#include <algorithm>
#include <limits>

#include "exp.h"
#include "rows.h"
#include "vector.h"

namespace ld4lg {
namespace {

constexpr int kVectors = kColumnBlock / kVector;
constexpr int kRows = kRowBlock / kVectors;  // so that the number of accumulators stays the same
constexpr int64_t kWidth = kHeadWidth;

// A float matrix with its strides between rows and between elements of a row.
struct Factor {
  const float* data;
  int64_t row, element;
};

// c (kRows x kColumnBlock) = a (kRows x depth) * b (depth x kColumnBlock).
inline void multiply(Factor a, const float* b, int64_t b_stride, int64_t depth, float* c, int64_t c_stride) {
  Vector sums[kRows][kVectors] = {};
  for (int64_t l = 0; l < depth; ++l) {
    Vector row[kVectors];
    for (int j = 0; j < kVectors; ++j) {
      row[j] = load(b + l * b_stride + j * kVector, Vector{});
#ifdef __AVX2__
      asm("" : "+x"(row[j]));  // keeps it in its register: loading it for every row of a takes 1.5 times as long
#endif
    }
    for (int i = 0; i < kRows; ++i)
      for (int j = 0; j < kVectors; ++j) sums[i][j] += a.data[i * a.row + l * a.element] * row[j];
  }
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kVectors; ++j) store(c + i * c_stride + j * kVector, sums[i][j]);
}

// c (kRows x kWidth) = a (kRows x depth) * b (depth x kWidth), both without gaps between the rows.
inline void multiply_heads(Factor a, const float* b, int64_t depth, float* c) {
  for (int64_t column = 0; column < kWidth; column += kColumnBlock)
    multiply(a, b + column, kWidth, depth, c + column, kWidth);
}

// A head of a row as float32 in `target`, scaled to root mean square `gain` if given, times `factor`.
inline void read_head(const ConstRows& rows, int64_t offset, const float* gain, float factor, float* target) {
  const ConstRows head{rows.data, 1, rows.dtype};
  const float* const source = read_row(head, offset, kWidth, target);
  if (gain != nullptr) {
    float square = 0.0f;
#pragma omp simd reduction(+ : square)
    for (int64_t i = 0; i < kWidth; ++i) square += source[i] * source[i];
    factor /= std::max(std::sqrt(square) * 0.125f, 1e-8f);
#pragma omp simd
    for (int64_t i = 0; i < kWidth; ++i) target[i] = source[i] * factor * gain[i];
  } else {
#pragma omp simd
    for (int64_t i = 0; i < kWidth; ++i) target[i] = source[i] * factor;
  }
}

// Interleaves WAYS equal parts of `from`.
template <int WAYS>
inline void interleave(const float* __restrict from, float* __restrict to) {
  constexpr int64_t kPart = kColumnBlock * kWidth / WAYS;
  for (int64_t i = 0; i < kPart; ++i)
    for (int way = 0; way < WAYS; ++way) to[WAYS * i + way] = from[way * kPart + i];
}

// Transposes kColumnBlock heads of kWidth in `rows` into a panel. Overwrites `rows`.
inline void transpose(float* rows, float* panel) {
  static_assert(kColumnBlock == 4 * 4 * 2, "the interleavings together bring every column's elements together");
  interleave<4>(rows, panel);
  interleave<4>(panel, rows);
  interleave<2>(rows, panel);
}

// The bias of one query's pairs; `buffer` holds a row of them.
inline const float* read_bias(const ShortAttention& args, int64_t batch, int64_t head, int64_t query, float* buffer) {
  const int64_t* const strides = args.bias_strides;
  const int64_t offset = batch * strides[0] + head * strides[1] + query * strides[2];
  if (strides[3] == 1) return read_row({args.bias, 1, args.bias_dtype}, offset, args.keys, buffer);
  std::fill_n(buffer, args.keys, *read_row({args.bias, 1, args.bias_dtype}, offset, 1, buffer));  // one for all keys
  return buffer;
}

// Scores of one query to probabilities; those of the padding are almost 0.
inline void softmax(float* scores, int64_t keys, int64_t padded) {
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  std::fill(scores + keys, scores + padded, kLowest);
  Vector highest = Vector{} + kLowest;
  for (int64_t j = 0; j < padded; j += kVector) {
    const Vector other = load(scores + j, Vector{});
    highest = other > highest ? other : highest;  // NaN is ignored
  }
  const float largest = maximum(highest);
#pragma omp simd
  for (int64_t j = 0; j < padded; ++j) scores[j] = exp_of_negative(scores[j] - largest);
  Vector sums = {};
  for (int64_t j = 0; j < padded; j += kVector) sums += load(scores + j, Vector{});
  const float factor = 1.0f / total(sums);
  for (int64_t j = 0; j < padded; j += kVector) store(scores + j, load(scores + j, Vector{}) * factor);
}

// kRows rows times all panels: kRows rows of `padded`.
inline void multiply_panels(const float* rows, const float* panels, int64_t padded, float* products) {
  for (int64_t j = 0; j < padded; j += kColumnBlock)
    multiply({rows, kWidth, 1}, panels + j * kWidth, kColumnBlock, kWidth, products + j, padded);
}

// Probabilities of `count` queries from `begin` on; `widened` holds a row of the bias.
inline void attend(const ShortAttention& args, int64_t batch, int64_t head, int64_t begin, int64_t count,
                   const float* queries, const float* panels, float* widened, float* probabilities) {
  const int64_t keys = args.keys, padded = padded_keys(keys);
  multiply_panels(queries, panels, padded, probabilities);
  for (int64_t i = 0; i < count; ++i) {
    float* const scores = probabilities + i * padded;
    if (args.bias != nullptr) {
      const float* const bias = read_bias(args, batch, head, begin + i, widened);
#pragma omp simd
      for (int64_t j = 0; j < keys; ++j) scores[j] += bias[j];
    }
    softmax(scores, keys, padded);
  }
}

// The heads of kColumnBlock rows from `begin` on, zero from row `count` on.
inline void read_block(const ConstRows& rows, int64_t offset, int64_t begin, int64_t count, const float* gain,
                       float* target) {
  for (int64_t i = 0; i < kColumnBlock; ++i, target += kWidth) {
    if (begin + i < count)
      read_head(rows, offset + (begin + i) * rows.stride, gain, 1.0f, target);
    else
      std::fill_n(target, kWidth, 0.0f);
  }
}

}  // namespace
}  // namespace ld4lg
