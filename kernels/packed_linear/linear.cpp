// The C interface of matmuls with a packed weight.
#include "linear.h"

#include "call.h"

// dtype of the weight: 0 float32, 1 bfloat16.
static void linear(const float* x, int64_t x_stride, const void* packed, int32_t dtype, const float* bias,
                   const float* residual, int64_t residual_stride, float* y, int64_t y_stride,
                   int64_t rows, int64_t inputs, int64_t outputs, int32_t gelu, int32_t threads) {
  const ld4lg::Linear args{x,
                           x_stride,
                           packed,
                           ld4lg::DType{dtype},
                           bias,
                           residual,
                           residual_stride,
                           y,
                           y_stride,
                           rows,
                           inputs,
                           outputs,
                           gelu != 0,
                           ld4lg::useful_threads(threads, inputs * outputs)};
  LD4LG_CALL(linear, args);
}
LD4LG_EXPORT_CALL(linear)
