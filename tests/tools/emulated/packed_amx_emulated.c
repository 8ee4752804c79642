/* The kernels for AMX with its tiles emulated, for checking them elsewhere. */
#define AMX_EMULATED
#define packed_amx packed_amx_emulated
#include "cpu/packed_amx.c"
