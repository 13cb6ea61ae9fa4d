#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace ld4lg {

// Uninitialized float32, aligned to a cache line: vectors across two lines cost twice as much.
class Scratch {
 public:
  explicit Scratch(int64_t size) : memory_(new float[size + kLine / sizeof(float)]) {}

  float* get() const {
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    return reinterpret_cast<float*>((address + kLine - 1) / kLine * kLine);
  }

 private:
  static constexpr size_t kLine = 64;
  std::unique_ptr<float[]> memory_;
};

}  // namespace ld4lg
