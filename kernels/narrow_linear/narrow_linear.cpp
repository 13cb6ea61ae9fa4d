// The C interface of bfloat16 and int8 matmuls.
#include "narrow_linear.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "call.h"

// Outputs of a weight go into panels in this order: as they are, or for GEGLU 16 values, then their 16 gates.
static int64_t output_at(int64_t column, int64_t outputs, bool geglu) {
  if (!geglu) return column;
  const int64_t half = ld4lg::kNarrowPanel / 2;
  const int64_t within = column / ld4lg::kNarrowPanel * half + column % half;
  if (within >= outputs / 2) return outputs;
  return column % ld4lg::kNarrowPanel < half ? within : outputs / 2 + within;
}

// `weight` has outputs x inputs numbers of bfloat16 (kind 0) or int8 (kind 1); `packed` has room for whole panels.
static void pack_narrow(int32_t kind, const void* weight, int64_t inputs, int64_t outputs, int32_t geglu,
                        uint32_t* packed) {
  const int64_t words = ld4lg::narrow_words(ld4lg::Narrow{kind}, inputs);
  const int64_t panels = (outputs + ld4lg::kNarrowPanel - 1) / ld4lg::kNarrowPanel;
  const int64_t size = ld4lg::Narrow{kind} == ld4lg::Narrow::kInt8 ? 1 : 2;
#pragma omp parallel for schedule(static)
  for (int64_t panel = 0; panel < panels; ++panel)
    for (int64_t j = 0; j < ld4lg::kNarrowPanel; ++j) {
      const int64_t output = output_at(panel * ld4lg::kNarrowPanel + j, outputs, geglu != 0);
      const char* const row = static_cast<const char*>(weight) + output * inputs * size;
      for (int64_t w = 0; w < words; ++w) {
        uint32_t word = 0;
        if (output < outputs)
          std::memcpy(&word, row + 4 * w, std::min<int64_t>(4, inputs * size - 4 * w));
        packed[(panel * words + w) * ld4lg::kNarrowPanel + j] = word;
      }
    }
}
LD4LG_EXPORT_CALL(pack_narrow)

// The output of each column of the panels; -1 after the last output.
static void narrow_order(int64_t outputs, int32_t geglu, int64_t* order) {
  const int64_t columns = (outputs + ld4lg::kNarrowPanel - 1) / ld4lg::kNarrowPanel * ld4lg::kNarrowPanel;
  for (int64_t column = 0; column < columns; ++column) {
    const int64_t output = output_at(column, outputs, geglu != 0);
    order[column] = output < outputs ? output : -1;
  }
}
LD4LG_EXPORT_CALL(narrow_order)

// dtypes: 0 float32, 1 bfloat16; strides in elements between rows. `outputs` are those of y.
static void narrow_linear(int32_t kind, const void* x, int64_t x_stride, int32_t x_dtype,
                          const uint32_t* packed, const float* scales, const int32_t* sums,
                          const float* bias, void* y, int64_t y_stride, int32_t y_dtype, int64_t rows,
                          int64_t inputs, int64_t outputs, int32_t geglu, int32_t threads) {
  using ld4lg::DType;
  threads = ld4lg::useful_threads(threads, inputs * outputs);
  const std::unique_ptr<uint32_t[]> words(new uint32_t[rows * ld4lg::narrow_words(ld4lg::Narrow{kind}, inputs)]);
  const std::unique_ptr<float[]> scratch(new float[rows + threads * inputs]);
  const ld4lg::NarrowLinear args{ld4lg::Narrow{kind},
                                 {x, x_stride, DType{x_dtype}},
                                 packed,
                                 scales,
                                 sums,
                                 bias,
                                 {y, y_stride, DType{y_dtype}},
                                 rows,
                                 inputs,
                                 outputs,
                                 geglu != 0,
                                 threads,
                                 words.get(),
                                 scratch.get(),
                                 scratch.get() + rows};
  LD4LG_CALL(narrow_linear, args);
}
LD4LG_EXPORT_CALL(narrow_linear)
