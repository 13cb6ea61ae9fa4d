// The C interface of the fused post-norm, modulation, residual and next pre-norm.
#include "adaln_residual.h"

#include "call.h"
#include "scratch.h"

namespace {

constexpr int64_t kStreamed = 1 << 20;  // from this many elements on the next operation would find few of them in the caches
constexpr int64_t kLine = 64 / sizeof(float);

// The output as rows. A large one bypasses the caches, which saves reading the memory that is overwritten.
ld4lg::Rows output(void* data, int32_t dtype, int64_t rows, int64_t width) {
  const bool aligned = width % kLine == 0 && reinterpret_cast<uintptr_t>(data) % 64 == 0;
  const bool streamed = ld4lg::DType{dtype} == ld4lg::DType::kFloat32 && aligned && rows * width >= kStreamed;
  return {data, width, ld4lg::DType{dtype}, streamed};
}

}  // namespace

// dtypes: 0 float32, 1 bfloat16; strides in elements between rows. next_weight, next_bias and y may be null.
static void adaln_residual(
    const void* h, int64_t h_stride, int32_t h_dtype, const void* residual, int64_t residual_stride,
    int32_t residual_dtype, const void* weight, int32_t weight_dtype, const void* bias, int32_t bias_dtype,
    const void* scale, int64_t scale_stride, int32_t scale_dtype, const void* shift, int64_t shift_stride,
    int32_t shift_dtype, const void* next_weight, int32_t next_weight_dtype, const void* next_bias,
    int32_t next_bias_dtype, void* x, void* y, int32_t y_dtype, float* stats, int64_t rows, int64_t width,
    int64_t rows_per_group, float eps, int32_t threads) {
  using ld4lg::DType;
  threads = ld4lg::useful_threads(threads, rows * width);
  const ld4lg::Scratch scratch(threads * ld4lg::kScratchRows * width);
  const ld4lg::AdalnResidual args{
    {h, h_stride, DType{h_dtype}},
    {residual, residual_stride, DType{residual_dtype}},
    {weight, 0, DType{weight_dtype}},
    {bias, 0, DType{bias_dtype}},
    {scale, scale_stride, DType{scale_dtype}},
    {shift, shift_stride, DType{shift_dtype}},
    {next_weight, 0, DType{next_weight_dtype}},
    {next_bias, 0, DType{next_bias_dtype}},
    output(x, residual_dtype, rows, width),
    output(y, y_dtype, rows, width),
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
    int32_t grad_y_dtype, const void* h, int64_t h_stride, int32_t h_dtype, const void* x, const void* weight,
    int32_t weight_dtype, const void* next_weight, int32_t next_weight_dtype, const void* scale, int64_t scale_stride,
    int32_t scale_dtype, const float* stats, void* grad_h, void* grad_residual, float* sums, int64_t rows,
    int64_t width, int64_t rows_per_group, int64_t rows_per_part, int64_t parts, int32_t threads) {
  using ld4lg::DType;
  threads = ld4lg::useful_threads(threads, rows * width);
  const ld4lg::Scratch scratch(threads * ld4lg::kScratchRows * width);
  const ld4lg::AdalnResidualBackward args{
    {grad_x, grad_x_stride, DType{grad_x_dtype}},
    {grad_y, grad_y_stride, DType{grad_y_dtype}},
    {h, h_stride, DType{h_dtype}},
    {x, width, DType{grad_x_dtype}},
    {weight, 0, DType{weight_dtype}},
    {next_weight, 0, DType{next_weight_dtype}},
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
    const float* sums, int64_t groups, int64_t parts, int64_t kinds, int64_t width, const void* weight,
    int32_t weight_dtype, const void* bias, int32_t bias_dtype, const void* scale, int64_t scale_stride,
    int32_t scale_dtype, float* grad_scale, float* grad_shift, float* grads, int32_t threads) {
  const ld4lg::AdalnResidualVectors args{
    sums,
    groups,
    parts,
    kinds,
    width,
    {weight, 0, ld4lg::DType{weight_dtype}},
    {bias, 0, ld4lg::DType{bias_dtype}},
    {scale, scale_stride, ld4lg::DType{scale_dtype}},
    grad_scale,
    grad_shift,
    grads,
    ld4lg::useful_threads(threads, groups * parts * kinds * width)};
  LD4LG_CALL(adaln_residual_vectors, args);
}
LD4LG_EXPORT_CALL(adaln_residual_vectors)
