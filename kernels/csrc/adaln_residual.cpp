// x = residual + (1 + scale) * LN(h) + shift, and optionally y = LN(x): one pass over memory.
// A row stays in the first-level cache, so its statistics take two exact passes.
#include <cmath>

#include "common.h"

namespace {

using ld4lg::bf16;
using ld4lg::load;
using ld4lg::store;

struct Statistics {
    float mean, inverse_std;
};

template <typename T>
LD4LG_INLINE Statistics statistics(const T* row, std::int64_t width, float eps) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < width; ++i) sum += load(row[i]);
    const float mean = sum / static_cast<float>(width);
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (std::int64_t i = 0; i < width; ++i) {
        const float centred = load(row[i]) - mean;
        squares += centred * centred;
    }
    return {mean, 1.0f / std::sqrt(squares / static_cast<float>(width) + eps)};
}

template <typename TH, typename TR, typename TM, typename TW>
LD4LG_INLINE void adaln_row(const TH* h, const TR* residual, const TW* weight, const TW* bias, const TM* scale,
                            const TM* shift, const TW* next_weight, const TW* next_bias, TR* x, TR* y,
                            std::int64_t width, float eps) {
    const Statistics of_h = statistics(h, width, eps);
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) {
        const float norm = (load(h[i]) - of_h.mean) * of_h.inverse_std * load(weight[i]) + load(bias[i]);
        store(x[i], load(residual[i]) + (1.0f + load(scale[i])) * norm + load(shift[i]));
    }
    if (y == nullptr) return;
    const Statistics of_x = statistics(x, width, eps);
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) {
        store(y[i], (load(x[i]) - of_x.mean) * of_x.inverse_std * load(next_weight[i]) + load(next_bias[i]));
    }
}

}  // namespace

// Row r is position r % length of example r / length; the modulation's strides are in elements, 0 = broadcast.
#define LD4LG_ADALN(NAME, TH, TR, TM, TW)                                                                         \
    LD4LG_VARIANTS static void NAME##_rows(const TH* h, const TR* residual, const TW* weight, const TW* bias,     \
                                           const TM* scale, const TM* shift, const TW* next_weight,               \
                                           const TW* next_bias, TR* x, TR* y, std::int64_t begin,                 \
                                           std::int64_t end, std::int64_t length, std::int64_t width,             \
                                           std::int64_t scale_batch, std::int64_t scale_row,                      \
                                           std::int64_t shift_batch, std::int64_t shift_row, float eps) {         \
        for (std::int64_t r = begin; r < end; ++r) {                                                              \
            const std::int64_t batch = r / length, position = r % length, at = r * width;                         \
            adaln_row(h + at, residual + at, weight, bias, scale + batch * scale_batch + position * scale_row,    \
                      shift + batch * shift_batch + position * shift_row, next_weight, next_bias, x + at,         \
                      y == nullptr ? nullptr : y + at, width, eps);                                               \
        }                                                                                                         \
    }                                                                                                             \
    extern "C" void NAME(const TH* h, const TR* residual, const TW* weight, const TW* bias, const TM* scale,      \
                         const TM* shift, const TW* next_weight, const TW* next_bias, TR* x, TR* y,               \
                         std::int64_t rows, std::int64_t length, std::int64_t width, std::int64_t scale_batch,    \
                         std::int64_t scale_row, std::int64_t shift_batch, std::int64_t shift_row, float eps,     \
                         std::int64_t threads) {                                                                  \
        const std::int64_t parts = threads < rows ? threads : rows;                                               \
        _Pragma("omp parallel for num_threads(parts) schedule(static) if (parts > 1)")                            \
        for (std::int64_t part = 0; part < parts; ++part) {                                                       \
            NAME##_rows(h, residual, weight, bias, scale, shift, next_weight, next_bias, x, y,                    \
                        rows * part / parts, rows * (part + 1) / parts, length, width, scale_batch, scale_row,    \
                        shift_batch, shift_row, eps);                                                             \
        }                                                                                                         \
    }

LD4LG_ADALN(ld4lg_adaln_residual_f32, float, float, float, float)
LD4LG_ADALN(ld4lg_adaln_residual_bf16, bf16, bf16, bf16, bf16)
LD4LG_ADALN(ld4lg_adaln_residual_mixed, bf16, float, bf16, float)
