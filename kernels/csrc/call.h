// Calls from Python. ctypes needs more time for two dozen arguments than a small kernel runs, so they come as one block
// of memory, 8 bytes each; the result is a status.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>
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

// kOutOfRange if a function returns false: it found an index out of range and did not follow it.
enum class Status : int32_t { kDone = 0, kOutOfRange = 1, kNoMemory = 2 };

template <typename Result, typename... Arguments, size_t... Places>
Status call(Result (*function)(Arguments...), const int64_t* packed, std::index_sequence<Places...>) {
  try {
    if constexpr (std::is_void_v<Result>)
      function(argument<Arguments>(packed[Places])...);
    else if (!function(argument<Arguments>(packed[Places])...))
      return Status::kOutOfRange;
  } catch (const std::bad_alloc&) {
    return Status::kNoMemory;
  }
  return Status::kDone;
}

template <typename Result, typename... Arguments>
Status call(Result (*function)(Arguments...), const int64_t* packed) {
  return call(function, packed, std::index_sequence_for<Arguments...>());
}

}  // namespace ld4lg

// Exports a function as ld4lg_NAME, which takes the block.
#define LD4LG_EXPORT_CALL(name) \
  LD4LG_EXPORT int32_t ld4lg_##name(const int64_t* packed) { return static_cast<int32_t>(ld4lg::call(name, packed)); }
