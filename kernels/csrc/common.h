// Shared by all CPU kernels: number formats and the choice of vector instructions at run time.
#pragma once

#include <cstdint>
#include <cstring>

// One binary for every x86-64: the loader picks the widest variant that the processor has.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define LD4LG_VARIANTS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define LD4LG_VARIANTS
#endif

#define LD4LG_INLINE inline __attribute__((always_inline))

namespace ld4lg {

struct bf16 {
    std::uint16_t bits;
};

LD4LG_INLINE float load(float value) { return value; }

LD4LG_INLINE float load(bf16 value) {
    std::uint32_t wide = static_cast<std::uint32_t>(value.bits) << 16;
    float out;
    std::memcpy(&out, &wide, sizeof out);
    return out;
}

LD4LG_INLINE void store(float& place, float value) { place = value; }

// Round to nearest even; a NaN keeps its quiet bit.
LD4LG_INLINE void store(bf16& place, float value) {
    std::uint32_t wide;
    std::memcpy(&wide, &value, sizeof wide);
    std::uint32_t rounded = (wide + 0x7FFFu + ((wide >> 16) & 1u)) >> 16;
    place.bits = static_cast<std::uint16_t>(value != value ? (wide >> 16) | 0x40u : rounded);
}

}  // namespace ld4lg
