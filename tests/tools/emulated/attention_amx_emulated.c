/* The attention for AMX with its tiles emulated, for checking it elsewhere. */
#define AMX_EMULATED
#define attention_amx attention_amx_emulated
#include "cpu/attention_amx.c"
