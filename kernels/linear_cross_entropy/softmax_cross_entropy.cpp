// The C interface of the language model's loss.
#include "softmax_cross_entropy.h"

#include "call.h"
#include "scratch.h"

static bool softmax_cross_entropy(void* logits, int64_t stride, int32_t dtype, const int64_t* targets, float* losses,
                                  int64_t rows, int64_t width, int32_t with_gradients, int32_t threads) {
  threads = ld4lg::useful_threads(threads, rows * width);
  const ld4lg::Scratch scratch(threads * width);
  const ld4lg::SoftmaxCrossEntropy args{{logits, stride, ld4lg::DType{dtype}},
                                        targets,
                                        losses,
                                        rows,
                                        width,
                                        with_gradients != 0,
                                        threads,
                                        scratch.get()};
  return LD4LG_CALL(softmax_cross_entropy, args);
}
LD4LG_EXPORT_CALL(softmax_cross_entropy)
