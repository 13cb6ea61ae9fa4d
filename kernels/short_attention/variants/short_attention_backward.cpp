// Gradients of short_attention, a whole head at a time: with P the probabilities and G the output's gradient,
// dV = PT G, dS = P * (G VT - rowsum(P * (G VT))), dQ = dS K and dK = dST Q, the last two through the RMS norms.
#include "attention.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

constexpr float kExcluded = -1e38f;  // pairs with a bias below it get no gradient

// Turns the gradient `grad` of a head scaled to root mean square `gain` into that of the head at `offset`, in place,
// and adds the gradient of the gain to `sums`.
void through_rms(const ConstRows& rows, int64_t offset, const float* gain, float* grad, float* sums) {
  float head[kWidth], along = 0.0f, square = 0.0f;
  read_head(rows, offset, nullptr, 1.0f, head);
#pragma omp simd reduction(+ : square)
  for (int64_t i = 0; i < kWidth; ++i) square += head[i] * head[i];
  const float factor = 1.0f / std::max(std::sqrt(square) * 0.125f, 1e-8f);
#pragma omp simd reduction(+ : along)
  for (int64_t i = 0; i < kWidth; ++i) {
    head[i] *= factor;
    sums[i] += grad[i] * head[i];
    grad[i] *= gain[i];
    along += grad[i] * head[i];
  }
  along /= static_cast<float>(kWidth);
#pragma omp simd
  for (int64_t i = 0; i < kWidth; ++i) grad[i] = (grad[i] - head[i] * along) * factor;
}

// Turns the gradient of a query's probabilities into that of its scores, in place.
void through_softmax(const float* probabilities, int64_t padded, float* grad) {
  Vector sums = {};
  for (int64_t j = 0; j < padded; j += kVector) sums += load(probabilities + j, Vector{}) * load(grad + j, Vector{});
  const float mean = total(sums);
#pragma omp simd
  for (int64_t j = 0; j < padded; ++j) grad[j] = probabilities[j] * (grad[j] - mean);
}

void run(const ShortAttentionBackward& args, int64_t batch, int64_t head, float* scratch) {
  const ShortAttention& in = args.inputs;
  const int64_t count = in.queries, keys = in.keys, padded = padded_keys(keys), column = head * kWidth;
  const int64_t rows = padded_keys(count), pair = batch * in.heads + head;
  float* const keys_of_head = scratch;
  float* const key_panels = keys_of_head + padded * kWidth;
  float* const value_panels = key_panels + padded * kWidth;
  float* const queries = value_panels + padded * kWidth;
  float* const upstream = queries + rows * kWidth;
  float* const probabilities = upstream + rows * kWidth;  // rows x padded
  float* const scores = probabilities + rows * padded;    // their gradient
  float* const outputs = scores + rows * padded;          // kRows x kWidth
  float* const block = outputs + kRowBlock * kWidth;
  float* const widened = block + kColumnBlock * kWidth;
  const int64_t q_offset = batch * in.q_batch_stride + column, k_offset = batch * in.k_batch_stride + column;
  float* const q_sums = args.q_sums == nullptr ? nullptr : args.q_sums + pair * kWidth;
  float* const k_sums = args.k_sums == nullptr ? nullptr : args.k_sums + pair * kWidth;

  for (int64_t begin = 0; begin < padded; begin += kColumnBlock) {
    read_block(in.k, k_offset, begin, keys, in.k_gain, keys_of_head + begin * kWidth);
    std::copy_n(keys_of_head + begin * kWidth, kColumnBlock * kWidth, block);
    transpose(block, key_panels + begin * kWidth);
    read_block(in.v, batch * in.v_batch_stride + column, begin, keys, nullptr, block);
    transpose(block, value_panels + begin * kWidth);
  }
  for (int64_t begin = 0; begin < rows; begin += kColumnBlock) {
    read_block(in.q, q_offset, begin, count, in.q_gain, queries + begin * kWidth);
    read_block(args.grad, batch * args.grad_batch_stride + column, begin, count, nullptr, upstream + begin * kWidth);
  }
#pragma omp simd
  for (int64_t i = 0; i < rows * kWidth; ++i) queries[i] *= 0.125f;
  if (q_sums != nullptr) {
    std::fill_n(q_sums, kWidth, 0.0f);
    std::fill_n(k_sums, kWidth, 0.0f);
  }

  for (int64_t begin = 0; begin < count; begin += kRows) {
    const int64_t here = std::min<int64_t>(kRows, count - begin);
    attend(in, batch, head, begin, here, queries + begin * kWidth, key_panels, widened,
           probabilities + begin * padded);
    multiply_panels(upstream + begin * kWidth, value_panels, padded, scores + begin * padded);
    for (int64_t i = begin; i < begin + here; ++i) {
      float* const row = scores + i * padded;
      through_softmax(probabilities + i * padded, padded, row);
      if (in.bias == nullptr) continue;
      const float* const bias = read_bias(in, batch, head, i, widened);
#pragma omp simd
      for (int64_t j = 0; j < keys; ++j) row[j] = bias[j] < kExcluded ? 0.0f : row[j];
      std::copy_n(row, keys, args.grad_bias + (pair * count + i) * keys);
    }
    multiply_heads({scores + begin * padded, padded, 1}, keys_of_head, keys, outputs);
    for (int64_t i = 0; i < here; ++i) {
      float* const grad = outputs + i * kWidth;
#pragma omp simd
      for (int64_t c = 0; c < kWidth; ++c) grad[c] *= 0.125f;
      if (q_sums != nullptr) through_rms(in.q, q_offset + (begin + i) * in.q.stride, in.q_gain, grad, q_sums);
      write_row({args.grad_q.data, 1, args.grad_q.dtype}, (batch * count + begin + i) * args.grad_q.stride + column,
                kWidth, grad);
    }
  }
  for (int64_t begin = 0; begin < keys; begin += kRows) {
    const int64_t here = std::min<int64_t>(kRows, keys - begin);
    multiply_heads({scores + begin, 1, padded}, queries, count, outputs);
    for (int64_t i = 0; i < here; ++i) {
      float* const grad = outputs + i * kWidth;
      if (k_sums != nullptr) through_rms(in.k, k_offset + (begin + i) * in.k.stride, in.k_gain, grad, k_sums);
      write_row({args.grad_k.data, 1, args.grad_k.dtype}, (batch * keys + begin + i) * args.grad_k.stride + column,
                kWidth, grad);
    }
    multiply_heads({probabilities + begin, 1, padded}, upstream, count, outputs);
    for (int64_t i = 0; i < here; ++i)
      write_row({args.grad_v.data, 1, args.grad_v.dtype}, (batch * keys + begin + i) * args.grad_v.stride + column,
                kWidth, outputs + i * kWidth);
  }
}

}  // namespace

void short_attention_backward(const ShortAttentionBackward& args) {
  const ShortAttention& in = args.inputs;
  const int64_t threads = in.threads, pairs = in.batch * in.heads;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t part = 0; part < threads; ++part)
    for (int64_t pair = part * pairs / threads; pair < (part + 1) * pairs / threads; ++pair)
      run(args, pair / in.heads, pair % in.heads, in.scratch + part * in.scratch_size);
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
