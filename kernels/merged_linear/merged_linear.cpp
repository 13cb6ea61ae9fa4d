// The C interface of matmuls of the same rows with several weights.
#include "merged_linear.h"

#include "call.h"
#include "scratch.h"

// dtype of the weights: 0 float32, 1 bfloat16. Weights after the first may be null.
static void merged_linear(const float* x, int64_t x_stride, const void* first, const void* second, const void* third,
                          const float* first_bias, const float* second_bias, const float* third_bias,
                          int64_t first_outputs, int64_t second_outputs, int64_t third_outputs, int64_t parts,
                          int32_t dtype, int32_t glu, const float* residual, int64_t residual_stride, float* y,
                          int64_t y_stride, int64_t rows, int64_t inputs, int32_t threads) {
  const int64_t outputs = first_outputs + second_outputs + third_outputs;
  threads = ld4lg::useful_threads(threads, inputs * outputs);
  const bool narrow = ld4lg::DType{dtype} != ld4lg::DType::kFloat32;
  const ld4lg::Scratch scratch(narrow ? threads * 2 * ld4lg::kGroup * inputs : 0);
  const ld4lg::MergedLinear args{x,
                                 x_stride,
                                 {first, second, third},
                                 {first_bias, second_bias, third_bias},
                                 {first_outputs, second_outputs, third_outputs},
                                 parts,
                                 ld4lg::DType{dtype},
                                 ld4lg::Glu{glu},
                                 residual,
                                 residual_stride,
                                 y,
                                 y_stride,
                                 rows,
                                 inputs,
                                 threads,
                                 scratch.get()};
  LD4LG_CALL(merged_linear, args);
}
LD4LG_EXPORT_CALL(merged_linear)
