// The C interface of the native library, called through ctypes by kernels/native.py.
#include <algorithm>
#include <cstring>
#include <memory>

#include "philox_normal.h"
#include "variants.h"

#define LD4LG_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

struct Variant {
  const char* name;
  bool (*runs_here)();
  void (*adaln_residual)(const ld4lg::AdalnResidual&);
  void (*adaln_residual_backward)(const ld4lg::AdalnResidualBackward&);
};

// Best first.
const Variant kVariants[] = {
#ifdef LD4LG_X86
    {"avx512",
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
     },
     ld4lg::avx512::adaln_residual, ld4lg::avx512::adaln_residual_backward},
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); },
     ld4lg::avx2::adaln_residual, ld4lg::avx2::adaln_residual_backward},
#endif
    {"baseline", [] { return true; }, ld4lg::baseline::adaln_residual, ld4lg::baseline::adaln_residual_backward},
};

const Variant* best_variant() {
  for (const Variant& variant : kVariants)
    if (variant.runs_here()) return &variant;
  return nullptr;  // not reached: the baseline runs everywhere
}

const Variant* chosen = best_variant();

const Variant& variant() { return *chosen; }

// A thread is woken only for this much work: below it, waking costs more than it saves.
constexpr int64_t kElementsPerThread = 16384;

int32_t useful_threads(int32_t threads, int64_t elements) {
  return static_cast<int32_t>(std::clamp<int64_t>(elements / kElementsPerThread, 1, std::max(threads, 1)));
}

}  // namespace

LD4LG_EXPORT const char* ld4lg_instruction_set() { return variant().name; }

// Makes later calls use the named variant; false, and no change, where this processor cannot run it.
LD4LG_EXPORT bool ld4lg_use_instruction_set(const char* name) {
  for (const Variant& variant : kVariants) {
    if (std::strcmp(variant.name, name) != 0 || !variant.runs_here()) continue;
    chosen = &variant;
    return true;
  }
  return false;
}

// dtypes: 0 float32, 1 bfloat16; strides in elements between rows. next_weight, next_bias and y may be null.
LD4LG_EXPORT void ld4lg_adaln_residual(
    const void* h, int64_t h_stride, int32_t h_dtype, const void* residual, int64_t residual_stride,
    int32_t residual_dtype, const float* weight, const float* bias, const void* scale, int64_t scale_stride,
    int32_t scale_dtype, const void* shift, int64_t shift_stride, int32_t shift_dtype, const float* next_weight,
    const float* next_bias, void* x, void* y, int32_t y_dtype, float* stats, int64_t rows, int64_t width,
    int64_t rows_per_group, float eps, int32_t threads) {
  using ld4lg::DType;
  threads = useful_threads(threads, rows * width);
  const std::unique_ptr<float[]> scratch(new float[threads * ld4lg::kScratchRows * width]);
  variant().adaln_residual({{h, h_stride, DType{h_dtype}},
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
                            scratch.get()});
}

// grad_y, x, next_weight and grad_residual may be null together.
LD4LG_EXPORT void ld4lg_adaln_residual_backward(
    const void* grad_x, int64_t grad_x_stride, int32_t grad_x_dtype, const void* grad_y, int64_t grad_y_stride,
    int32_t grad_y_dtype, const void* h, int64_t h_stride, int32_t h_dtype, const void* x, const float* weight,
    const float* next_weight, const void* scale, int64_t scale_stride, int32_t scale_dtype, const float* stats,
    void* grad_h, void* grad_residual, float* sums, int64_t rows, int64_t width, int64_t rows_per_group,
    int64_t rows_per_part, int64_t parts, int32_t threads) {
  using ld4lg::DType;
  threads = useful_threads(threads, rows * width);
  const std::unique_ptr<float[]> scratch(new float[threads * ld4lg::kScratchRows * width]);
  variant().adaln_residual_backward({{grad_x, grad_x_stride, DType{grad_x_dtype}},
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
                                     scratch.get()});
}

LD4LG_EXPORT void ld4lg_philox_normal(uint64_t seed, const int64_t* sample_ids, int64_t samples, uint32_t stream,
                                      int64_t size, float* out, int32_t threads) {
  // A normal costs about eight times an element of a memory-bound kernel.
  ld4lg::philox_normal(seed, sample_ids, samples, stream, size, out, useful_threads(threads, 8 * samples * size));
}
