// softmax(q kT / 8 + bias) v, a whole head at a time, from and to rows that hold all heads side by side.
#include "attention.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

void run(const ShortAttention& args, int64_t batch, int64_t head, float* scratch) {
  const int64_t keys = args.keys, padded = padded_keys(keys), column = head * kWidth;
  float* const panels = scratch;  // the keys, transposed
  float* const values = panels + kWidth * padded;
  float* const probabilities = values + kWidth * padded;  // kRows x padded
  float* const widened = probabilities + kRowBlock * padded;
  float* const queries = widened + padded;  // kRows x kWidth
  float* const outputs = queries + kRowBlock * kWidth;
  float* const block = outputs + kRowBlock * kWidth;

  // Both are copied: rows with a multiple of a kilobyte as their stride would share a few cache lines.
  for (int64_t begin = 0; begin < padded; begin += kColumnBlock) {
    read_block(args.k, batch * args.k_batch_stride + column, begin, keys, args.k_gain, block);
    transpose(block, panels + begin * kWidth);
    read_block(args.v, batch * args.v_batch_stride + column, begin, keys, nullptr, values + begin * kWidth);
  }
  for (int64_t begin = 0; begin < args.queries; begin += kRows) {
    const int64_t count = std::min<int64_t>(kRows, args.queries - begin);
    for (int64_t i = 0; i < kRows; ++i) {  // after the last query it is repeated and not stored
      const int64_t query = begin + std::min(i, count - 1);
      read_head(args.q, batch * args.q_batch_stride + query * args.q.stride + column, args.q_gain, 0.125f,
                queries + i * kWidth);
    }
    attend(args, batch, head, begin, count, queries, panels, widened, probabilities);
    multiply_heads({probabilities, padded, 1}, values, keys, outputs);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t place = (batch * args.queries + begin + i) * args.out.stride + column;
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
