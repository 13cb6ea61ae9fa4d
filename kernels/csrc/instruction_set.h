// Which build of the kernels in variants/ runs: one per instruction set, chosen at run time.
#pragma once

#include <cstdint>

#define LD4LG_EXPORT extern "C" __attribute__((visibility("default")))

// Declares functions that every instruction set's build provides, each in the namespace of its name.
#define LD4LG_IN_EVERY_VARIANT(...)   \
  namespace baseline { __VA_ARGS__ } \
  namespace avx2 { __VA_ARGS__ }     \
  namespace avx512 { __VA_ARGS__ }   \
  namespace avx512_vnni { __VA_ARGS__ } \
  namespace avx512_bf16 { __VA_ARGS__ }

// Calls the chosen build of such a function.
#ifdef LD4LG_X86
#define LD4LG_CALL(function, ...)                                       \
  (ld4lg::instruction_set() == ld4lg::InstructionSet::kAvx512Bf16       \
       ? ld4lg::avx512_bf16::function(__VA_ARGS__)                      \
   : ld4lg::instruction_set() == ld4lg::InstructionSet::kAvx512Vnni     \
       ? ld4lg::avx512_vnni::function(__VA_ARGS__)                      \
   : ld4lg::instruction_set() == ld4lg::InstructionSet::kAvx512         \
       ? ld4lg::avx512::function(__VA_ARGS__)                           \
       : ld4lg::instruction_set() == ld4lg::InstructionSet::kAvx2       \
             ? ld4lg::avx2::function(__VA_ARGS__)                       \
             : ld4lg::baseline::function(__VA_ARGS__))
#else
#define LD4LG_CALL(function, ...) (ld4lg::baseline::function(__VA_ARGS__))
#endif

namespace ld4lg {

enum class InstructionSet { kBaseline, kAvx2, kAvx512, kAvx512Vnni, kAvx512Bf16 };

InstructionSet instruction_set();

// At most `threads`, and few enough that each has enough work to be worth waking.
int32_t useful_threads(int32_t threads, int64_t elements);

}  // namespace ld4lg
