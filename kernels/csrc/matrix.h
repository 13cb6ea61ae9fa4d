// How the C interface describes matrices.
#pragma once

#include <cstdint>

namespace ld4lg {

enum class DType : int32_t { kFloat32 = 0, kBFloat16 = 1 };

// A matrix with `stride` elements from row to row; the elements of a row are adjacent.
struct ConstRows {
  const void* data;
  int64_t stride;
  DType dtype;
};

// `streamed` rows bypass the caches; they must be float32 and start at a cache line.
struct Rows {
  void* data;
  int64_t stride;
  DType dtype;
  bool streamed = false;
};

}  // namespace ld4lg
