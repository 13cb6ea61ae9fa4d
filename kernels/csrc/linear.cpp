// The C interface of the product with a packed weight.
#include "linear.h"

// `packed` has room for outputs rounded up to whole panels.
LD4LG_EXPORT void ld4lg_pack_linear(const float* weight, int64_t inputs, int64_t outputs, float* packed) {
  const int64_t panels = (outputs + ld4lg::kPanel - 1) / ld4lg::kPanel;
#pragma omp parallel for schedule(static)
  for (int64_t panel = 0; panel < panels; ++panel)
    for (int64_t i = 0; i < inputs; ++i)
      for (int64_t j = 0; j < ld4lg::kPanel; ++j) {
        const int64_t output = panel * ld4lg::kPanel + j;
        packed[(panel * inputs + i) * ld4lg::kPanel + j] = output < outputs ? weight[output * inputs + i] : 0.0f;
      }
}

LD4LG_EXPORT void ld4lg_linear(const float* x, int64_t x_stride, const float* packed, const float* bias,
                               const float* residual, int64_t residual_stride, float* y, int64_t y_stride,
                               int64_t rows, int64_t inputs, int64_t outputs, int32_t gelu, int32_t threads) {
  threads = ld4lg::useful_threads(threads, inputs * outputs);
  const ld4lg::Linear args{x,        x_stride, packed, bias,    residual,  residual_stride, y,
                           y_stride, rows,     inputs, outputs, gelu != 0, threads};
  LD4LG_CALL(linear, args);
}
