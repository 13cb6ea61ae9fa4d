// The C interface of one step of a sampler.
#include "sampler_step.h"

#include "call.h"
#include "scratch.h"

// output (copies * samples x positions x width) and input (samples x positions x width or 2 * width) have the
// given dtype: 0 float32, 1 bfloat16; there are seven coefficients for each of the steps. x_prev, and seed with sample_ids, may be null.
static bool sampler_step(
    const void* output, int32_t dtype, int32_t copies, const float* z, const float* x_prev, const float* coefficients,
    const int64_t* step, int64_t steps, const int64_t* seed, const int64_t* sample_ids, uint32_t stream, float* z_next,
    float* x_start, void* input, int64_t samples, int64_t positions, int64_t width, int32_t self_condition,
    int32_t threads) {
  using ld4lg::DType;
  constexpr int64_t kCoefficients = 7;
  if (*step < 0 || *step >= steps) return false;
  const int64_t size = samples * positions * width;
  threads = ld4lg::useful_threads(threads, sample_ids == nullptr ? size : 2 * size);
  const ld4lg::Scratch scratch(threads * 3 * width);
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
    coefficients + *step * kCoefficients,
    sample_ids,
    seed == nullptr ? 0 : static_cast<uint64_t>(*seed),
    stream + static_cast<uint32_t>(*step),
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
