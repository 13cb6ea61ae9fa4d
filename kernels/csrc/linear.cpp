// The C interface of the products with a packed weight.
#include "linear.h"

#include <memory>

#include "call.h"

// dtype of the weight: 0 float32, 1 bfloat16.
static void linear(const float* x, int64_t x_stride, const void* packed, int32_t dtype, const float* bias,
                   const float* residual, int64_t residual_stride, float* y, int64_t y_stride,
                   int64_t rows, int64_t inputs, int64_t outputs, int32_t gelu, int32_t threads) {
  const ld4lg::Linear args{x,
                           x_stride,
                           packed,
                           ld4lg::DType{dtype},
                           rows,
                           inputs,
                           {bias, residual, residual_stride, y, y_stride, outputs, gelu != 0},
                           ld4lg::useful_threads(threads, inputs * outputs)};
  LD4LG_CALL(linear, args);
}
LD4LG_EXPORT_CALL(linear)

static void int8_linear(const float* x, int64_t x_stride, const uint8_t* packed, const float* scales,
                        const float* bias, const float* residual, int64_t residual_stride, float* y,
                        int64_t y_stride, int64_t rows, int64_t inputs, int64_t outputs, int32_t gelu,
                        int32_t threads) {
  // Whole lines of the cache, and never a multiple of its period apart.
  const int64_t bytes_stride = (inputs + 63) / 64 * 64 + (inputs % 1024 == 0 ? 64 : 0);
  const std::unique_ptr<int8_t[]> bytes(new int8_t[rows * bytes_stride]);
  const std::unique_ptr<float[]> row_scales(new float[rows]);
  const std::unique_ptr<int32_t[]> row_sums(new int32_t[rows]);
  const ld4lg::Int8Linear args{x,
                               x_stride,
                               packed,
                               scales,
                               rows,
                               inputs,
                               {bias, residual, residual_stride, y, y_stride, outputs, gelu != 0},
                               ld4lg::useful_threads(threads, inputs * outputs),
                               bytes.get(),
                               bytes_stride,
                               row_scales.get(),
                               row_sums.get()};
  LD4LG_CALL(int8_linear, args);
}
LD4LG_EXPORT_CALL(int8_linear)

// Whether int8_linear runs on instructions for products of bytes.
LD4LG_EXPORT bool ld4lg_multiplies_bytes() {
#ifdef LD4LG_X86
  return ld4lg::instruction_set() >= ld4lg::InstructionSet::kAvx512 && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}
