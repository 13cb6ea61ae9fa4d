// The C interface of the fused post-norm, modulation, residual and next pre-norm.
#include "adaln_residual.h"

#include "call.h"
#include "scratch.h"

// dtypes: 0 float32, 1 bfloat16; strides in elements between rows. next_weight, next_bias and y may be null.
static void adaln_residual(
    const void* h, int64_t h_stride, int32_t h_dtype, const void* residual, int64_t residual_stride,
    int32_t residual_dtype, const float* weight, const float* bias, const void* scale, int64_t scale_stride,
    int32_t scale_dtype, const void* shift, int64_t shift_stride, int32_t shift_dtype, const float* next_weight,
    const float* next_bias, void* x, void* y, int32_t y_dtype, float* stats, int64_t rows, int64_t width,
    int64_t rows_per_group, float eps, int32_t threads) {
  using ld4lg::DType;
  threads = ld4lg::useful_threads(threads, rows * width);
  const ld4lg::Scratch scratch(threads * ld4lg::kScratchRows * width);
  const ld4lg::AdalnResidual args{
    {h, h_stride, DType{h_dtype}},
    {residual, residual_stride, DType{residual_dtype}},
    weight,
    bias,
    {scale, scale_stride, DType{scale_dtype}},
    {shift, shift_stride, DType{shift_dtype}},
    next_weight,
    next_bias,
    {x, width, DType{residual_dtype}},
    {y, width, DType{y_dtype}},
    stats,
    rows,
    width,
    rows_per_group,
    eps,
    threads,
    scratch.get()};
  LD4LG_CALL(adaln_residual, args);
}
LD4LG_EXPORT_CALL(adaln_residual)

// grad_y, x, next_weight and grad_residual may be null together.
static void adaln_residual_backward(
    const void* grad_x, int64_t grad_x_stride, int32_t grad_x_dtype, const void* grad_y, int64_t grad_y_stride,
    int32_t grad_y_dtype, const void* h, int64_t h_stride, int32_t h_dtype, const void* x, const float* weight,
    const float* next_weight, const void* scale, int64_t scale_stride, int32_t scale_dtype, const float* stats,
    void* grad_h, void* grad_residual, float* sums, int64_t rows, int64_t width, int64_t rows_per_group,
    int64_t rows_per_part, int64_t parts, int32_t threads) {
  using ld4lg::DType;
  threads = ld4lg::useful_threads(threads, rows * width);
  const ld4lg::Scratch scratch(threads * ld4lg::kScratchRows * width);
  const ld4lg::AdalnResidualBackward args{
    {grad_x, grad_x_stride, DType{grad_x_dtype}},
    {grad_y, grad_y_stride, DType{grad_y_dtype}},
    {h, h_stride, DType{h_dtype}},
    {x, width, DType{grad_x_dtype}},
    weight,
    next_weight,
    {scale, scale_stride, DType{scale_dtype}},
    stats,
    {grad_h, width, DType{h_dtype}},
    {grad_residual, width, DType{grad_x_dtype}},
    sums,
    rows,
    width,
    rows_per_group,
    rows_per_part,
    parts,
    threads,
    scratch.get()};
  LD4LG_CALL(adaln_residual_backward, args);
}
LD4LG_EXPORT_CALL(adaln_residual_backward)

static void adaln_residual_vectors(
    const float* sums, int64_t groups, int64_t parts, int64_t kinds, int64_t width, const float* weight,
    const float* bias, const void* scale, int64_t scale_stride, int32_t scale_dtype, float* grad_scale,
    float* grad_shift, float* grads, int32_t threads) {
  const ld4lg::AdalnResidualVectors args{
    sums,
    groups,
    parts,
    kinds,
    width,
    weight,
    bias,
    {scale, scale_stride, ld4lg::DType{scale_dtype}},
    grad_scale,
    grad_shift,
    grads,
    ld4lg::useful_threads(threads, groups * parts * kinds * width)};
  LD4LG_CALL(adaln_residual_vectors, args);
}
LD4LG_EXPORT_CALL(adaln_residual_vectors)
