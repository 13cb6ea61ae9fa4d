// softmax(q kT / 8 + bias) v, a whole head at a time, from and to rows that hold all heads side by side.
#include "../short_attention.h"

#include <algorithm>

#include "rows.h"
#include "vector.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

constexpr int kVectors = kColumnBlock / kVector;
constexpr int kRows = 8 / kVectors;  // so that eight vectors accumulate
constexpr int64_t kWidth = kHeadWidth;
constexpr int64_t kGroup = 8;  // keys transposed at once

// c (kRows x kColumnBlock) = a (kRows x depth) * b (depth x kColumnBlock), rows that many elements apart.
inline void multiply(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t depth, float* c,
                     int64_t c_stride) {
  Vector sums[kRows][kVectors] = {};
  for (int64_t l = 0; l < depth; ++l) {
    Vector row[kVectors];
    for (int j = 0; j < kVectors; ++j) {
      row[j] = load(b + l * b_stride + j * kVector, Vector{});
#ifdef __AVX2__
      asm("" : "+x"(row[j]));  // stays in its register: loaded again for every row of a, it takes half as long again
#endif
    }
    for (int i = 0; i < kRows; ++i)
      for (int j = 0; j < kVectors; ++j) sums[i][j] += a[i * a_stride + l] * row[j];
  }
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kVectors; ++j) store(c + i * c_stride + j * kVector, sums[i][j]);
}

// exp(x) for x <= 0, to about an ulp: 2^n * e^r with |r| <= ln(2) / 2 (the coefficients are those of the series).
inline float exp_of_negative(float x) {
  x = std::max(x, -87.0f);
  const int32_t n = static_cast<int32_t>(x * 1.44269504f - 0.5f);
  const float r = (x - static_cast<float>(n) * 0.693359375f) + static_cast<float>(n) * 2.12194440e-4f;
  float e = 1.0f / 5040.0f;
  e = e * r + 1.0f / 720.0f;
  e = e * r + 1.0f / 120.0f;
  e = e * r + 1.0f / 24.0f;
  e = e * r + 1.0f / 6.0f;
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  const int32_t bits = (n + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return e * power;
}

// A head's part of a row as float32 in `target`, with root mean square `gain` where there is one, times `factor`.
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

// Scores of one query to probabilities, the padding to zero.
inline void softmax(float* scores, int64_t keys, int64_t padded) {
  float largest = scores[0];
#pragma omp simd reduction(max : largest)
  for (int64_t j = 0; j < keys; ++j) largest = std::max(largest, scores[j]);
  float total = 0.0f;
#pragma omp simd reduction(+ : total)
  for (int64_t j = 0; j < keys; ++j) {
    scores[j] = exp_of_negative(scores[j] - largest);
    total += scores[j];
  }
  const float factor = 1.0f / total;
#pragma omp simd
  for (int64_t j = 0; j < keys; ++j) scores[j] *= factor;
  for (int64_t j = keys; j < padded; ++j) scores[j] = 0.0f;
}

void run(const ShortAttention& args, int64_t batch, int64_t head, float* scratch) {
  const int64_t keys = args.keys, padded = padded_keys(keys);
  float* const transposed = scratch;  // kWidth x padded
  float* const values = transposed + kWidth * padded;
  float* const scores = values + kWidth * padded;  // kRows x padded
  float* const widened = scores + 8 * padded;
  float* const queries = widened + padded;  // kRows x kWidth
  float* const outputs = queries + 8 * kWidth;
  float* const rows = outputs + 8 * kWidth;  // kGroup x kWidth

  // Both are copied: rows that lie a multiple of a kilobyte apart would fight for the same few lines of the cache.
  for (int64_t begin = 0; begin < padded; begin += kGroup) {
    for (int64_t i = 0; i < kGroup; ++i) {
      const int64_t j = begin + i;
      if (j < keys)
        read_head(args.k, batch * args.k_batch_stride + j * args.k.stride + head * kWidth, args.k_gain, 0.125f,
                  rows + i * kWidth);
      else
        std::fill_n(rows + i * kWidth, kWidth, 0.0f);
    }
    for (int64_t c = 0; c < kWidth; ++c)
      for (int64_t i = 0; i < kGroup; ++i) transposed[c * padded + begin + i] = rows[i * kWidth + c];
  }
  for (int64_t j = 0; j < keys; ++j)
    read_head(args.v, batch * args.v_batch_stride + j * args.v.stride + head * kWidth, nullptr, 1.0f,
              values + j * kWidth);

  for (int64_t begin = 0; begin < args.queries; begin += kRows) {
    const int64_t count = std::min<int64_t>(kRows, args.queries - begin);
    for (int64_t i = 0; i < kRows; ++i) {  // beyond the last query it is repeated, and not stored
      const int64_t query = begin + std::min(i, count - 1);
      read_head(args.q, batch * args.q_batch_stride + query * args.q.stride + head * kWidth, args.q_gain, 1.0f,
                queries + i * kWidth);
    }
    for (int64_t j = 0; j < padded; j += kColumnBlock)
      multiply(queries, kWidth, transposed + j, padded, kWidth, scores + j, padded);
    for (int64_t i = 0; i < kRows; ++i) {
      if (args.bias != nullptr) {
        const int64_t* const strides = args.bias_strides;
        const int64_t query = begin + std::min(i, count - 1);
        const int64_t offset = batch * strides[0] + head * strides[1] + query * strides[2];
        if (strides[3] == 1) {
          const float* const bias = read_row({args.bias, 1, args.bias_dtype}, offset, keys, widened);
#pragma omp simd
          for (int64_t j = 0; j < keys; ++j) scores[i * padded + j] += bias[j];
        } else {  // one number for all keys
          const float bias = *read_row({args.bias, 1, args.bias_dtype}, offset, 1, widened);
          for (int64_t j = 0; j < keys; ++j) scores[i * padded + j] += bias;
        }
      }
      softmax(scores + i * padded, keys, padded);
    }
    for (int64_t c = 0; c < kWidth; c += kColumnBlock)
      multiply(scores, padded, values + c, kWidth, keys, outputs + c, kWidth);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t place = (batch * args.queries + begin + i) * args.out.stride + head * kWidth;
      write_row({args.out.data, 1, args.out.dtype}, place, kWidth, outputs + i * kWidth);
    }
  }
}

}  // namespace

void short_attention(const ShortAttention& args) {
  const int64_t threads = args.threads, pairs = args.batch * args.heads;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t part = 0; part < threads; ++part)
    for (int64_t pair = part * pairs / threads; pair < (part + 1) * pairs / threads; ++pair)
      run(args, pair / args.heads, pair % args.heads, args.scratch + part * args.scratch_size);
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
