// The C interface of bias, split, value * GELU(gate) and dropout.
#include "geglu.h"

#include "call.h"
#include "scratch.h"

// dtypes: 0 float32, 1 bfloat16; strides in elements between rows.
static void geglu(const void* projected, int64_t projected_stride, int32_t projected_dtype,
                  const float* bias, void* out, int64_t out_stride, int32_t out_dtype, uint64_t seed,
                  uint32_t threshold, float factor, int64_t rows, int64_t width, int32_t threads) {
  using ld4lg::DType;
  threads = ld4lg::useful_threads(threads, rows * width);
  const ld4lg::Geglu args{{projected, projected_stride, DType{projected_dtype}},
                          bias,
                          {out, out_stride, DType{out_dtype}},
                          {seed, threshold, factor},
                          rows,
                          width,
                          threads};
  LD4LG_CALL(geglu, args);
}
LD4LG_EXPORT_CALL(geglu)

static void geglu_of_columns(const float* projected, int64_t stride, const float* bias, float* out, int64_t rows,
                             int64_t width, int32_t threads) {
  threads = ld4lg::useful_threads(threads, rows * width);
  const ld4lg::GegluOfColumns args{projected, stride, bias, out, rows, width, threads};
  LD4LG_CALL(geglu_of_columns, args);
}
LD4LG_EXPORT_CALL(geglu_of_columns)

static void geglu_backward(const void* grad, int64_t grad_stride, int32_t grad_dtype,
                           const void* projected, int64_t projected_stride, int32_t projected_dtype,
                           const float* bias, void* grad_projected, int64_t grad_projected_stride,
                           int32_t grad_projected_dtype, float* sums, uint64_t seed, uint32_t threshold,
                           float factor, int64_t rows, int64_t width, int64_t rows_per_part,
                           int32_t threads) {
  using ld4lg::DType;
  threads = ld4lg::useful_threads(threads, rows * width);
  const ld4lg::Scratch scratch(threads * 5 * width);
  const ld4lg::GegluBackward args{{grad, grad_stride, DType{grad_dtype}},
                                  {projected, projected_stride, DType{projected_dtype}},
                                  bias,
                                  {grad_projected, grad_projected_stride, DType{grad_projected_dtype}},
                                  sums,
                                  {seed, threshold, factor},
                                  rows,
                                  width,
                                  rows_per_part,
                                  threads,
                                  scratch.get()};
  LD4LG_CALL(geglu_backward, args);
}
LD4LG_EXPORT_CALL(geglu_backward)
