// What Python asks before it calls anything else.
#include "call.h"

// As in kernels/native.py: raised here and there when a function's arguments change.
LD4LG_EXPORT int32_t ld4lg_interface() { return 2; }
