// The C interface of one step of a sampler.
#include "sampler_step.h"

#include "call.h"
#include "scratch.h"

// output (copies * samples x positions x width) and input (samples x positions x width or 2 * width) have the
// given dtype: 0 float32, 1 bfloat16; the table of coefficients has `rows` of seven. Step and seed are one number, or with
// a stride of 1 one a sample; the noise's streams and weights are rows x columns. x_prev, first, and seed with all of the
// noise, may be null.
static bool sampler_step(
    const void* output, int32_t dtype, int32_t copies, const float* z, const float* x_prev, const float* coefficients,
    int64_t rows, const int64_t* step, int64_t step_stride, const int64_t* first, const int64_t* seed,
    int64_t seed_stride, const int64_t* sample_ids, const int64_t* streams, const float* weights, int64_t columns,
    float* z_next, float* x_start, void* input, int64_t samples, int64_t positions, int64_t width,
    int32_t self_condition, int32_t threads) {
  using ld4lg::DType;
  for (int64_t sample = 0; sample < samples; ++sample) {
    const int64_t number = step[sample * step_stride], begin = first == nullptr ? 0 : first[sample];
    if (number < 0 || number >= rows || begin < 0 || begin >= rows - number) return false;
  }
  const int64_t size = samples * positions * width;
  threads = ld4lg::useful_threads(threads, sample_ids == nullptr ? size : 2 * size);
  const ld4lg::Scratch scratch(threads * ld4lg::sampler_step_scratch(width));
  const int64_t element = DType{dtype} == DType::kFloat32 ? 4 : 2;
  const int64_t input_width = self_condition ? 2 * width : width;
  const auto after = [element](auto* data, int64_t count) {
    using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(data)>>, const char, char>;
    return static_cast<Byte*>(data) + count * element;
  };
  const ld4lg::SamplerStep args{
    {output, width, DType{dtype}},
    {copies == 2 ? after(output, size) : nullptr, width, DType{dtype}},
    z,
    x_prev,
    coefficients,
    step,
    seed,
    step_stride,
    seed_stride,
    first,
    sample_ids,
    streams,
    weights,
    columns,
    z_next,
    x_start,
    {input, input_width, DType{dtype}},
    {self_condition ? after(input, width) : nullptr, input_width, DType{dtype}},
    samples,
    positions,
    width,
    threads,
    scratch.get()};
  LD4LG_CALL(sampler_step, args);
  return true;
}
LD4LG_EXPORT_CALL(sampler_step)
