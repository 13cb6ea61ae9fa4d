// x is rounded first. Then a panel of the weight stays in the cache while a few rows at a time are multiplied with it.
#include "../narrow_linear.h"

#include <algorithm>
#include <limits>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "gelu.h"
#include "rows.h"

namespace ld4lg {
namespace LD4LG_ISA {
namespace {

typedef int32_t Ints __attribute__((vector_size(4 * kVector), aligned(4), may_alias));

typedef uint8_t Bytes __attribute__((vector_size(kVector)));

constexpr int kVectors = kNarrowPanel / kVector;
constexpr int kMaxRows = kVector == 16 ? 12 : kVector == 8 ? 3 : 1;  // whose sums fit the registers

inline Ints load_words(const uint32_t* words) { return *reinterpret_cast<const Ints*>(words); }

// Multiplies and adds the two bfloat16 numbers of a word.
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

// Largest size of a byte of x around its zero point; half of it where two products are added in 16 bits.
#if defined(__AVX512VNNI__) || !defined(__AVX2__)
constexpr float kReach = 127.0f;
constexpr int32_t kZero = 128;
#else
constexpr float kReach = 63.0f;
constexpr int32_t kZero = 64;
#endif

// Multiplies and adds the four bytes of a word; those of x are unsigned.
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

// Largest |value|; NaN if one is NaN: |values| are ordered like their bits, and NaN is above infinity.
inline float largest_size(const float* values, int64_t width) {
  Ints sizes[4] = {};
  int64_t i = 0;
  for (; i + 4 * kVector <= width; i += 4 * kVector)
    for (int j = 0; j < 4; ++j) {
      const Ints size = (Ints)load(values + i + j * kVector, Vector{}) & 0x7FFFFFFF;
      sizes[j] = size > sizes[j] ? size : sizes[j];
    }
  int32_t bits = 0;
  for (const Ints& size : sizes)
    for (int j = 0; j < kVector; ++j) bits = std::max(bits, size[j]);
  for (; i < width; ++i) {
    int32_t size;
    std::memcpy(&size, values + i, sizeof size);
    bits = std::max(bits, size & 0x7FFFFFFF);
  }
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

// Whether the rows of x can be read as words without rounding.
inline bool narrow_already(const NarrowLinear& args) {
  return args.kind == Narrow::kBFloat16 && args.x.dtype == DType::kBFloat16 && args.inputs % 2 == 0 &&
         args.x.stride % 2 == 0 && reinterpret_cast<uintptr_t>(args.x.data) % 4 == 0;
}

// Rounds a row of x to words of its kind, and stores the scale of its bytes.
void narrow_row(const NarrowLinear& args, int64_t row, float* scratch) {
  const int64_t inputs = args.inputs, count = narrow_words(args.kind, inputs);
  uint32_t* const words = args.words + row * count;
  words[count - 1] = 0;
  const float* const x = read_row(args.x, row, inputs, scratch);
  if (args.kind == Narrow::kBFloat16) return narrow_to(x, inputs, reinterpret_cast<uint16_t*>(words));
  const float largest = largest_size(x, inputs);
  const float whole = kReach / largest;  // infinite if all numbers are almost 0, NaN if one is NaN
  const float factor = whole <= std::numeric_limits<float>::max() ? whole : 0.0f;
  args.row_scales[row] = largest / kReach;
  const auto level = [factor](auto values) {  // at least 0, also for infinity times 0
    const auto shifted = values * factor + (kZero + 0.5f);
    return shifted > 0.0f ? shifted : decltype(shifted){};
  };
  uint8_t* const target = reinterpret_cast<uint8_t*>(words);
  int64_t i = 0;
  for (; i + kVector <= inputs; i += kVector) {
    const Bytes bytes =
        __builtin_convertvector(__builtin_convertvector(level(load(x + i, Vector{})), Ints), Bytes);
    std::memcpy(target + i, &bytes, kVector);
  }
  for (; i < inputs; ++i) target[i] = static_cast<uint8_t>(level(x[i]));
}

// Turns the sums of a row and a panel into outputs.
inline void finish(const NarrowLinear& args, int64_t panel, int64_t row, Vector* line) {
  const int64_t first = panel * kNarrowPanel;
  if (args.bias != nullptr)
    for (int v = 0; v < kVectors; ++v) line[v] += load(args.bias + first + v * kVector, Vector{});
  int64_t begin = first, width = kNarrowPanel;
  if (args.geglu) {
    begin /= 2, width /= 2;
    for (int v = 0; v < kVectors / 2; ++v) {
      const Vector gate = line[kVectors / 2 + v];
      line[v] *= gate * normal_cdf(gate);
    }
  }
  float values[kNarrowPanel];
  for (int v = 0; v < kVectors; ++v) store(values + v * kVector, line[v]);
  width = std::min(width, args.outputs - begin);
  if (args.y.dtype == DType::kBFloat16)
    narrow_to(values, width, static_cast<uint16_t*>(args.y.data) + row * args.y.stride + begin);
  else
    std::copy(values, values + width, static_cast<float*>(args.y.data) + row * args.y.stride + begin);
}

template <Narrow>
struct SumOf {
  typedef Vector Type;
};
template <>
struct SumOf<Narrow::kInt8> {
  typedef Ints Type;
};

struct Words {
  const uint32_t* data;
  int64_t stride;
};

// ROWS rows from `row` on by one panel.
template <Narrow KIND, int ROWS>
void multiply(const NarrowLinear& args, Words words, int64_t panel, int64_t row) {
  const int64_t count = narrow_words(KIND, args.inputs);
  const uint32_t* weight = args.packed + panel * count * kNarrowPanel;
  const uint32_t* x = words.data + row * words.stride;
  typename SumOf<KIND>::Type sums[ROWS][kVectors] = {};
  if constexpr (KIND == Narrow::kInt8)
    for (int v = 0; v < kVectors; ++v) {
      const Ints start = -kZero * *reinterpret_cast<const Ints*>(args.sums + panel * kNarrowPanel + v * kVector);
      for (int r = 0; r < ROWS; ++r) sums[r][v] = start;
    }
  for (int64_t i = 0; i < count; ++i, weight += kNarrowPanel, ++x) {
    Ints columns[kVectors];
    for (int v = 0; v < kVectors; ++v) columns[v] = load_words(weight + v * kVector);
    for (int r = 0; r < ROWS; ++r) {
      const Ints word = Ints{} + static_cast<int32_t>(x[r * words.stride]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] = dot(sums[r][v], word, columns[v]);
    }
  }
#pragma GCC unroll 1
  for (int r = 0; r < ROWS; ++r) {
    Vector line[kVectors];
    for (int v = 0; v < kVectors; ++v)
      if constexpr (KIND == Narrow::kInt8)
        line[v] = __builtin_convertvector(sums[r][v], Vector) *
                  (load(args.scales + panel * kNarrowPanel + v * kVector, Vector{}) * args.row_scales[row + r]);
      else
        line[v] = sums[r][v];
    finish(args, panel, row + r, line);
  }
}

template <Narrow KIND, int ROWS = kMaxRows>
void multiply_some(const NarrowLinear& args, Words words, int64_t panel, int64_t row, int64_t rows) {
  if (rows == ROWS) return multiply<KIND, ROWS>(args, words, panel, row);
  if constexpr (ROWS > 1) multiply_some<KIND, ROWS - 1>(args, words, panel, row, rows);
}

}  // namespace

void narrow_linear(const NarrowLinear& args) {
  const int64_t columns = args.geglu ? 2 * args.outputs : args.outputs;
  const int64_t panels = (columns + kNarrowPanel - 1) / kNarrowPanel;
  const int64_t blocks = (args.rows + kMaxRows - 1) / kMaxRows;
  const int64_t count = narrow_words(args.kind, args.inputs);
  const int64_t threads = args.threads;
  const bool narrow = narrow_already(args);
  const Words words = narrow ? Words{static_cast<const uint32_t*>(args.x.data), args.x.stride / 2}
                             : Words{args.words, count};
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    if (!narrow)
#pragma omp for schedule(static)
      for (int64_t part = 0; part < threads; ++part)
        for (int64_t row = part * args.rows / threads; row < (part + 1) * args.rows / threads; ++row)
          narrow_row(args, row, args.scratch + part * args.inputs);
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < panels; ++panel) {
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t begin = block * args.rows / blocks, height = (block + 1) * args.rows / blocks - begin;
        if (args.kind == Narrow::kInt8)
          multiply_some<Narrow::kInt8>(args, words, panel, begin, height);
        else
          multiply_some<Narrow::kBFloat16>(args, words, panel, begin, height);
      }
    }
  }
}

}  // namespace LD4LG_ISA
}  // namespace ld4lg
