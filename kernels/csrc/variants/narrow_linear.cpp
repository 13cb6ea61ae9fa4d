// x is narrowed first, a block of rows at a time and word by word, as the products read it. Then a panel of the
// weight stays in the cache while every block is multiplied with it, and the next panel is asked for meanwhile.
#include "../narrow_linear.h"

#include <algorithm>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "gelu.h"
#include "rows.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

typedef int32_t Ints __attribute__((vector_size(4 * kVector), aligned(4), may_alias));

constexpr int kVectors = kNarrowPanel / kVector;
constexpr int kAhead = 8;  // words
constexpr int kMaxRows = kVector == 16 ? 12 : kVector == 8 ? 3 : 1;  // whose sums fit the registers

inline Ints load_words(const uint32_t* words) { return *reinterpret_cast<const Ints*>(words); }

// Adds the products of a word's two numbers of bfloat16.
inline Vector dot(Vector sum, Ints x, Ints weight) {
#if defined(__AVX512BF16__)
  return (Vector)(_mm512_dpbf16_ps((__m512)(sum), (__m512bh)(x),
                                                   (__m512bh)(weight)));
#else
  constexpr int32_t kHigh = static_cast<int32_t>(0xFFFF0000u);
  sum += (Vector)(x << 16) * (Vector)(weight << 16);
  return sum + (Vector)(x & kHigh) * (Vector)(weight & kHigh);
#endif
}

// How far a byte of x reaches to either side of its zero: where two products are added in 16 bits, half as far.
#if defined(__AVX512VNNI__) || !defined(__AVX2__)
constexpr float kReach = 127.0f;
constexpr int32_t kZero = 128;
#else
constexpr float kReach = 63.0f;
constexpr int32_t kZero = 64;
#endif

// Adds the products of a word's four bytes, those of x without a sign.
inline Ints dot(Ints sum, Ints x, Ints weight) {
#if defined(__AVX512VNNI__)
  return (Ints)(_mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(x),
                                                    (__m512i)(weight)));
#elif defined(__AVX512BW__)
  const __m512i pairs = _mm512_maddubs_epi16((__m512i)(x), (__m512i)(weight));
  return sum + (Ints)(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#elif defined(__AVX2__)
  const __m256i pairs = _mm256_maddubs_epi16((__m256i)(x), (__m256i)(weight));
  return sum + (Ints)(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#else
  for (int bits = 0; bits < 32; bits += 8) sum += ((x >> bits) & 255) * (weight << (24 - bits) >> 24);
  return sum;
#endif
}

// A row of x as words of its kind, and what its bytes are multiplied with.
void narrow_row(const NarrowLinear& args, int64_t row, float* scratch, uint32_t* words) {
  const int64_t inputs = args.inputs;
  const int64_t count = narrow_words(args.kind, inputs);
  words[count - 1] = 0;
  const float* const x = read_row(args.x, row, inputs, scratch);
  if (args.kind == Narrow::kBFloat16) {
    uint16_t* const target = reinterpret_cast<uint16_t*>(words);
    if (args.x.dtype == DType::kBFloat16) {
      const uint16_t* const source = static_cast<const uint16_t*>(args.x.data) + row * args.x.stride;
      std::copy(source, source + inputs, target);
    } else {
      narrow_to(x, inputs, target);
    }
    return;
  }
  float largest = 0.0f;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < inputs; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float factor = largest > 0.0f ? kReach / largest : 0.0f;
  args.row_scales[row] = largest / kReach;
  uint8_t* const target = reinterpret_cast<uint8_t*>(words);
#pragma omp simd
  for (int64_t i = 0; i < inputs; ++i)
    target[i] = static_cast<uint8_t>(static_cast<int32_t>(x[i] * factor + (kZero + 0.5f)));
}

// One row's sums of a panel -> outputs.
void finish(const NarrowLinear& args, int64_t panel, int64_t row, float* line) {
  const int64_t first = panel * kNarrowPanel;
  if (args.bias != nullptr)
#pragma omp simd
    for (int j = 0; j < kNarrowPanel; ++j) line[j] += args.bias[first + j];
  int64_t begin = first, width = kNarrowPanel;
  if (args.geglu) {
    begin = first / 2, width = kNarrowPanel / 2;
#pragma omp simd
    for (int j = 0; j < kNarrowPanel / 2; ++j) {
      const float gate = line[kNarrowPanel / 2 + j];
      line[j] *= gate * normal_cdf(gate);
    }
  }
  width = std::min(width, args.outputs - begin);
  if (args.y.dtype == DType::kFloat32) {
    float* const y = static_cast<float*>(args.y.data) + row * args.y.stride + begin;
    std::copy(line, line + width, y);
  } else {
    narrow_to(line, width, static_cast<uint16_t*>(args.y.data) + row * args.y.stride + begin);
  }
}

template <Narrow>
struct SumOf {
  typedef Vector Type;
};
template <>
struct SumOf<Narrow::kInt8> {
  typedef Ints Type;
};

// ROWS rows from `row` on by one panel; `ask` is a part of the next one.
template <Narrow KIND, int ROWS>
void multiply(const NarrowLinear& args, int64_t panel, int64_t row, const char* ask, int64_t ask_stride) {
  const int64_t count = narrow_words(KIND, args.inputs);
  const uint32_t* weight = args.packed + panel * count * kNarrowPanel;
  const uint32_t* x = args.words + row * count;
  typename SumOf<KIND>::Type sums[ROWS][kVectors] = {};
  if constexpr (KIND == Narrow::kInt8)
    for (int v = 0; v < kVectors; ++v) {
      const Ints start = -kZero * *reinterpret_cast<const Ints*>(args.sums + panel * kNarrowPanel + v * kVector);
      for (int r = 0; r < ROWS; ++r) sums[r][v] = start;
    }
  for (int64_t i = 0; i < count; ++i, weight += kNarrowPanel, x += ROWS, ask += ask_stride) {
    __builtin_prefetch(weight + kAhead * kNarrowPanel, 0, 3);
    __builtin_prefetch(weight + kAhead * kNarrowPanel + kNarrowPanel / 2, 0, 3);
    __builtin_prefetch(x + kAhead * ROWS, 0, 3);
    __builtin_prefetch(ask, 0, 2);
    Ints columns[kVectors];
    for (int v = 0; v < kVectors; ++v) columns[v] = load_words(weight + v * kVector);
    for (int r = 0; r < ROWS; ++r) {
      const Ints word = Ints{} + static_cast<int32_t>(x[r]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] = dot(sums[r][v], word, columns[v]);
    }
  }
  for (int r = 0; r < ROWS; ++r) {
    float line[kNarrowPanel];
    for (int v = 0; v < kVectors; ++v) {
      if constexpr (KIND == Narrow::kInt8) {
        const Vector scale = load(args.scales + panel * kNarrowPanel + v * kVector, Vector{});
        store(line + v * kVector, __builtin_convertvector(sums[r][v], Vector) * (scale * args.row_scales[row + r]));
      } else {
        store(line + v * kVector, sums[r][v]);
      }
    }
    finish(args, panel, row + r, line);
  }
}

template <Narrow KIND, int ROWS = kMaxRows>
void multiply_some(const NarrowLinear& args, int64_t panel, int64_t row, int64_t rows, const char* ask,
                   int64_t ask_stride) {
  if (rows == ROWS) return multiply<KIND, ROWS>(args, panel, row, ask, ask_stride);
  if constexpr (ROWS > 1) multiply_some<KIND, ROWS - 1>(args, panel, row, rows, ask, ask_stride);
}

}  // namespace

void narrow_linear(const NarrowLinear& args) {
  const int64_t columns = args.geglu ? 2 * args.outputs : args.outputs;
  const int64_t panels = (columns + kNarrowPanel - 1) / kNarrowPanel;
  const int64_t blocks = (args.rows + kMaxRows - 1) / kMaxRows;
  const int64_t count = narrow_words(args.kind, args.inputs);
  const int64_t panel_bytes = count * kNarrowPanel * 4;
  const int64_t threads = args.threads;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
#pragma omp for schedule(static)
    for (int64_t part = 0; part < threads; ++part) {
      float* const scratch = args.scratch + part * narrow_scratch(args.inputs);
      uint32_t* const line = reinterpret_cast<uint32_t*>(scratch + args.inputs);
      for (int64_t block = part * blocks / threads; block < (part + 1) * blocks / threads; ++block) {
        const int64_t begin = block * args.rows / blocks, end = (block + 1) * args.rows / blocks;
        uint32_t* const words = args.words + begin * count;
        for (int64_t row = begin; row < end; ++row) {
          narrow_row(args, row, scratch, line);
          for (int64_t i = 0; i < count; ++i) words[i * (end - begin) + row - begin] = line[i];
        }
      }
    }
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t next = std::min(panel + 1, panels - 1);
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t begin = block * args.rows / blocks, end = (block + 1) * args.rows / blocks;
        const char* const ask =
            reinterpret_cast<const char*>(args.packed) + next * panel_bytes + block * (panel_bytes / blocks);
        const int64_t ask_stride = 4 * kNarrowPanel / blocks;
        if (args.kind == Narrow::kInt8)
          multiply_some<Narrow::kInt8>(args, panel, begin, end - begin, ask, ask_stride);
        else
          multiply_some<Narrow::kBFloat16>(args, panel, begin, end - begin, ask, ask_stride);
      }
    }
  }
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
