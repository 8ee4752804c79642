/* The kernels for AVX-VNNI in the encoding that processors with AVX-512 have, for checking them there. */
#define packed_avxvnni packed_avxvnni_evex
#include "cpu/packed_avxvnni.c"
