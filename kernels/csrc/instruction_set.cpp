#include "instruction_set.h"

#include <algorithm>
#include <cstring>

namespace ld4lg {
namespace {

struct Variant {
  const char* name;
  InstructionSet set;
  bool (*runs_here)();
};

#ifdef LD4LG_X86
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#endif

// Best first.
const Variant kVariants[] = {
#ifdef LD4LG_X86
    {"avx512_bf16", InstructionSet::kAvx512Bf16,
     [] { return has_vnni() && __builtin_cpu_supports("avx512bf16"); }},
    {"avx512_vnni", InstructionSet::kAvx512Vnni, has_vnni},
    {"avx512", InstructionSet::kAvx512, has_avx512},
    {"avx2", InstructionSet::kAvx2, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
    {"baseline", InstructionSet::kBaseline, [] { return true; }},
};

const Variant* best_variant() {
  for (const Variant& variant : kVariants)
    if (variant.runs_here()) return &variant;
  return nullptr;  // not reached: the baseline runs everywhere
}

const Variant* chosen = best_variant();

// With fewer elements, waking a thread costs more than it saves.
constexpr int64_t kElementsPerThread = 16384;

}  // namespace

InstructionSet instruction_set() { return chosen->set; }

int32_t useful_threads(int32_t threads, int64_t elements) {
  return static_cast<int32_t>(std::clamp<int64_t>(elements / kElementsPerThread, 1, std::max(threads, 1)));
}

}  // namespace ld4lg

LD4LG_EXPORT const char* ld4lg_instruction_set() { return ld4lg::chosen->name; }

// Makes later calls use the named variant; false, and no change, where this processor cannot run it.
LD4LG_EXPORT bool ld4lg_use_instruction_set(const char* name) {
  for (const ld4lg::Variant& variant : ld4lg::kVariants) {
    if (std::strcmp(variant.name, name) != 0 || !variant.runs_here()) continue;
    ld4lg::chosen = &variant;
    return true;
  }
  return false;
}
