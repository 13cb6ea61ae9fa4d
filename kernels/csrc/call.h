// How Python calls: ctypes takes longer to convert two dozen arguments than a small call computes, so they come as one
// block of memory, 8 bytes each.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "instruction_set.h"

namespace ld4lg {

template <typename Argument>
Argument argument(const int64_t& place) {
  if constexpr (std::is_floating_point_v<Argument>) {
    double value;
    std::memcpy(&value, &place, sizeof value);
    return static_cast<Argument>(value);
  } else if constexpr (std::is_pointer_v<Argument>) {
    return reinterpret_cast<Argument>(place);
  } else {
    return static_cast<Argument>(place);
  }
}

template <typename... Arguments, size_t... Places>
void call(void (*function)(Arguments...), const int64_t* packed, std::index_sequence<Places...>) {
  function(argument<Arguments>(packed[Places])...);
}

template <typename... Arguments>
void call(void (*function)(Arguments...), const int64_t* packed) {
  call(function, packed, std::index_sequence_for<Arguments...>());
}

}  // namespace ld4lg

// Exports a function as ld4lg_NAME, which takes the block.
#define LD4LG_EXPORT_CALL(name) \
  LD4LG_EXPORT void ld4lg_##name(const int64_t* packed) { ld4lg::call(name, packed); }
