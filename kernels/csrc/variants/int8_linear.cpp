// Products of bytes: as in linear.cpp, some panels of the weight stay in the cache while a few rows at a time are
// multiplied with them. What is stored is the weight + 128, which the instruction takes as its unsigned operand; 128
// times the sum of a row's bytes is taken off the sums again.
#include <algorithm>
#include <cmath>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "../linear.h"
#include "linear_output.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

constexpr int kPanels = 2;
constexpr int kOutputs = kPanels * kPanel;
constexpr int kMaxRows = 12;

void quantize(const Int8Linear& args, int64_t row) {
  const float* const x = args.x + row * args.x_stride;
  int8_t* const bytes = args.bytes + row * args.bytes_stride;
  float largest = 0.0f;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < args.inputs; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float factor = largest > 0.0f ? 127.0f / largest : 0.0f;
  int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < args.inputs; ++i) {
    const int32_t level = static_cast<int32_t>(std::nearbyint(x[i] * factor));
    bytes[i] = static_cast<int8_t>(level);
    sum += level;
  }
  for (int64_t i = args.inputs; i % 4 != 0; ++i) bytes[i] = 0;
  args.row_scales[row] = largest / 127.0f;
  args.row_sums[row] = sum;
}

// The sums of `rows` rows of bytes with two panels.
void sum_plainly(const uint8_t* const* panels, const int8_t* bytes, int64_t stride, int64_t quads, int64_t rows,
                 int32_t (*sums)[kOutputs]) {
  for (int64_t r = 0; r < rows; ++r)
    for (int p = 0; p < kPanels; ++p)
      for (int j = 0; j < kPanel; ++j) {
        int32_t sum = 0;
        for (int64_t q = 0; q < quads; ++q)
          for (int k = 0; k < 4; ++k) sum += panels[p][(q * kPanel + j) * 4 + k] * bytes[r * stride + q * 4 + k];
        sums[r][p * kPanel + j] = sum;
      }
}

#ifdef __AVX512F__
// The sums of ROWS rows with two panels: members and not an array, so that they stay in registers.
template <int ROWS>
struct Totals {
  __m512i first = _mm512_setzero_si512(), second = _mm512_setzero_si512();
  Totals<ROWS - 1> others;

  __attribute__((always_inline)) void add(__m512i first_column, __m512i second_column, const int8_t* bytes,
                                          int64_t stride) {
    int32_t four;
    __builtin_memcpy(&four, bytes, 4);
    const __m512i factors = _mm512_set1_epi32(four);
    // Not the intrinsic, around which GCC moves the sums from register to register.
    asm("vpdpbusd %2, %1, %0" : "+v"(first) : "v"(first_column), "v"(factors));
    asm("vpdpbusd %2, %1, %0" : "+v"(second) : "v"(second_column), "v"(factors));
    others.add(first_column, second_column, bytes + stride, stride);
  }

  __attribute__((always_inline)) void store(int32_t (*sums)[kOutputs]) const {
    _mm512_storeu_si512(sums[0], first);
    _mm512_storeu_si512(sums[0] + kPanel, second);
    others.store(sums + 1);
  }
};

template <>
struct Totals<0> {
  void add(__m512i, __m512i, const int8_t*, int64_t) {}
  void store(int32_t (*)[kOutputs]) const {}
};

template <int ROWS>
void sum_rows(const uint8_t* const* panels, const int8_t* bytes, int64_t stride, int64_t quads,
              int32_t (*sums)[kOutputs]) {
  Totals<ROWS> totals;
  for (int64_t q = 0; q < quads; ++q)
    totals.add(_mm512_loadu_si512(panels[0] + q * 4 * kPanel), _mm512_loadu_si512(panels[1] + q * 4 * kPanel),
               bytes + q * 4, stride);
  totals.store(sums);
}

template <int ROWS>
void sum_some(const uint8_t* const* panels, const int8_t* bytes, int64_t stride, int64_t quads, int64_t rows,
              int32_t (*sums)[kOutputs]) {
  if (rows == ROWS) return sum_rows<ROWS>(panels, bytes, stride, quads, sums);
  if constexpr (ROWS > 1) sum_some<ROWS - 1>(panels, bytes, stride, quads, rows, sums);
}

const auto sum_best = __builtin_cpu_supports("avx512vnni") ? sum_some<kMaxRows> : sum_plainly;
#else
const auto sum_best = sum_plainly;
#endif

// Rows `begin` to `end`, at most kMaxRows, with a group of panels.
void multiply(const Int8Linear& args, int64_t group, int64_t begin, int64_t end) {
  const int64_t quads = (args.inputs + 3) / 4, last = (args.out.outputs - 1) / kPanel;
  const uint8_t* panels[kPanels];
  for (int64_t p = 0; p < kPanels; ++p)  // beyond the last panel it is read again, and not stored
    panels[p] = args.packed + std::min(group * kPanels + p, last) * quads * 4 * kPanel;
  int32_t sums[kMaxRows][kOutputs];
  sum_best(panels, args.bytes + begin * args.bytes_stride, args.bytes_stride, quads, end - begin, sums);
  const int64_t first = group * kOutputs, width = std::min<int64_t>(kOutputs, args.out.outputs - first);
  for (int64_t row = begin; row < end; ++row) {
    float line[kOutputs] = {};
#pragma omp simd
    for (int64_t j = 0; j < width; ++j)
      line[j] = static_cast<float>(sums[row - begin][j] - 128 * args.row_sums[row]) * args.row_scales[row] *
                args.scales[first + j];
    write_outputs<kOutputs>(args.out, row, first, line);
  }
}

}  // namespace

void int8_linear(const Int8Linear& args) {
  const int64_t groups = (args.out.outputs + kOutputs - 1) / kOutputs;
  const int64_t blocks = (args.rows + kMaxRows - 1) / kMaxRows;
#pragma omp parallel num_threads(args.threads) if (args.threads > 1)
  {
#pragma omp for schedule(static)
    for (int64_t row = 0; row < args.rows; ++row) quantize(args, row);
#pragma omp for schedule(static)
    for (int64_t group = 0; group < groups; ++group)
      for (int64_t block = 0; block < blocks; ++block)
        multiply(args, group, block * args.rows / blocks, (block + 1) * args.rows / blocks);
  }
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
