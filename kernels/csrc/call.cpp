// Checked by Python before any other call.
#include "call.h"

// Equal to INTERFACE of kernels/native.py; increase both when a function's arguments change.
LD4LG_EXPORT int32_t ld4lg_interface() { return 4; }
