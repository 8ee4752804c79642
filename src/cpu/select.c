#define _GNU_SOURCE /* syscall */
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "cpu/kernels.h"

#if defined(__x86_64__)
/* __builtin_cpu_supports of clang before 15 does not know the name "f16c". */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

/* Nor does it know "avx512bf16" everywhere. */
static bool has_avx512bf16(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1 << 5);
}

/* 256-bit dot products without AVX-512; not all compilers know the name "avxvnni". */
static bool has_avxvnni(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
}

/* AMX with int8 and bfloat16. A process must ask for the tiles' state, once for all its threads; the kernel says no where it, or the
 * hypervisor, does not save them. */
static bool has_amx(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18, BF16 = 1 << 22, TILE = 1 << 24, INT8 = 1 << 25 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (BF16 | TILE | INT8)) != (BF16 | TILE | INT8)) {
        return false;
    }
#ifdef __linux__
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}
#endif

/* __builtin_cpu_supports asks the operating system too (XGETBV): registers that are not saved do not count. */
int kernels_isas(const char *names[KERNEL_ISAS]) {
    int n = 0;
    names[n++] = "generic";
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
        names[n++] = "avx2";
        if (has_avxvnni()) {
            names[n++] = "avxvnni";
        }
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512dq")) {
            names[n++] = "avx512";
            if (__builtin_cpu_supports("avx512vnni")) {
                names[n++] = "avx512vnni";
                if (has_avx512bf16()) {
                    names[n++] = "avx512bf16";
                    if (has_amx()) {
                        names[n++] = "amx";
                    }
                }
            }
        }
    }
#elif defined(__aarch64__)
    names[n++] = "neon";
    if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) {
        names[n++] = "dotprod";
        if (getauxval(AT_HWCAP2) & HWCAP2_I8MM) {
            names[n++] = "i8mm";
        }
    }
#endif
    return n;
}

/* VDPBF16PS has twice the speed of FMA on Zen 4. On Sapphire Rapids attention by it came to 38% of the speed that FMA has there, and attention
 * by FMA to 73% on Zen 4. */
const char *kernels_best(void) {
    const char *names[KERNEL_ISAS];
    int n = kernels_isas(names);
#if defined(__x86_64__)
    if (strcmp(names[n - 1], "avx512bf16") == 0 && __builtin_cpu_is("intel")) {
        n--;
    }
#endif
    return names[n - 1];
}

bool kernels_select(const char *isa, cpu_kernels *k) {
    const char *names[KERNEL_ISAS];
    int n = kernels_isas(names);
    memset(k, 0, sizeof *k);
    for (int i = 0; i < n; i++) {
        if (strcmp(names[i], "generic") == 0) {
            kernels_generic(k);
            packed_generic(k);
        }
#if defined(__x86_64__)
        else if (strcmp(names[i], "avx2") == 0) {
            kernels_avx2(k);
            packed_avx2(k);
        } else if (strcmp(names[i], "avxvnni") == 0) {
            packed_avxvnni(k);
            k->name = "AVX-VNNI";
        } else if (strcmp(names[i], "avx512") == 0) {
            kernels_avx512(k);
        } else if (strcmp(names[i], "avx512vnni") == 0) {
            packed_avx512vnni(k);
            k->name = "AVX-512 VNNI";
        } else if (strcmp(names[i], "avx512bf16") == 0) {
            attention_avx512bf16(k);
            k->name = "AVX-512 VNNI BF16";
        } else if (strcmp(names[i], "amx") == 0) {
            packed_amx(k);
            attention_amx(k);
            k->name = "AMX";
        }
#elif defined(__aarch64__)
        else if (strcmp(names[i], "neon") == 0) {
            kernels_neon(k);
            packed_neon(k);
        } else if (strcmp(names[i], "dotprod") == 0) {
            packed_neon_dotprod(k);
            k->name = "NEON with dot products";
        } else if (strcmp(names[i], "i8mm") == 0) {
            packed_neon_i8mm(k);
            k->name = "NEON with I8MM";
        }
#endif
        if (strcmp(names[i], isa) == 0) {
            return true;
        }
    }
    return false;
}
