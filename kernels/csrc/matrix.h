// How the C interface describes matrices.
#pragma once

#include <cstdint>

namespace ld4lg {

enum class DType : int32_t { kFloat32 = 0, kBFloat16 = 1 };

// A matrix whose rows lie `stride` elements apart; the elements of a row are adjacent.
struct ConstRows {
  const void* data;
  int64_t stride;
  DType dtype;
};

// `streamed`, which only float32 rows from the start of a cache line on can be: written past the caches.
struct Rows {
  void* data;
  int64_t stride;
  DType dtype;
  bool streamed = false;
};

}  // namespace ld4lg
