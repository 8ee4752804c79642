#include "tensor/finite.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "tensor/blocks.h"

enum { CHUNK = 512 }; /* values looked at between two decisions: short enough for a cache, long enough for vector instructions */

static int64_t find16(const uint8_t *p, int64_t n, uint16_t exponent) {
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int64_t m = n - at < CHUNK ? n - at : CHUNK;
        uint16_t v[CHUNK], found = 0;
        memcpy(v, p + 2 * at, (size_t)m * sizeof *v);
        for (int64_t i = 0; i < m; i++) {
            found |= (v[i] & exponent) == exponent ? 1 : 0;
        }
        for (int64_t i = 0; found && i < m; i++) {
            if ((v[i] & exponent) == exponent) {
                return at + i;
            }
        }
    }
    return -1;
}

static int64_t find32(const uint8_t *p, int64_t n) {
    const uint32_t exponent = 0x7f800000;
    for (int64_t at = 0; at < n; at += CHUNK) {
        const int64_t m = n - at < CHUNK ? n - at : CHUNK;
        uint32_t v[CHUNK], found = 0;
        memcpy(v, p + 4 * at, (size_t)m * sizeof *v);
        for (int64_t i = 0; i < m; i++) {
            found |= (v[i] & exponent) == exponent ? 1 : 0;
        }
        for (int64_t i = 0; found && i < m; i++) {
            if ((v[i] & exponent) == exponent) {
                return at + i;
            }
        }
    }
    return -1;
}

static int64_t find64(const uint8_t *p, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double v;
        memcpy(&v, p + 8 * i, sizeof v);
        if (!isfinite(v)) {
            return i;
        }
    }
    return -1;
}

/* Where a block keeps its F16 scales. */
typedef struct scales {
    int count;
    size_t at[2];
} scales;

static bool find_scales(dtype type, scales *out) {
    switch (type) {
    case DTYPE_Q4_0:
        *out = (scales){1, {offsetof(block_q4_0, d)}};
        return true;
    case DTYPE_Q4_1:
        *out = (scales){2, {offsetof(block_q4_1, d), offsetof(block_q4_1, m)}};
        return true;
    case DTYPE_Q5_0:
        *out = (scales){1, {offsetof(block_q5_0, d)}};
        return true;
    case DTYPE_Q5_1:
        *out = (scales){2, {offsetof(block_q5_1, d), offsetof(block_q5_1, m)}};
        return true;
    case DTYPE_Q8_0:
        *out = (scales){1, {offsetof(block_q8_0, d)}};
        return true;
    case DTYPE_IQ4_NL:
        *out = (scales){1, {offsetof(block_iq4_nl, d)}};
        return true;
    case DTYPE_Q2_K:
        *out = (scales){2, {offsetof(block_q2_k, d), offsetof(block_q2_k, dmin)}};
        return true;
    case DTYPE_Q3_K:
        *out = (scales){1, {offsetof(block_q3_k, d)}};
        return true;
    case DTYPE_Q4_K:
        *out = (scales){2, {offsetof(block_q4_k, d), offsetof(block_q4_k, dmin)}};
        return true;
    case DTYPE_Q5_K:
        *out = (scales){2, {offsetof(block_q5_k, d), offsetof(block_q5_k, dmin)}};
        return true;
    case DTYPE_Q6_K:
        *out = (scales){1, {offsetof(block_q6_k, d)}};
        return true;
    case DTYPE_IQ4_XS:
        *out = (scales){1, {offsetof(block_iq4_xs, d)}};
        return true;
    default:
        return false;
    }
}

/* Whether a block may hold a value that is not finite: then it is decoded. */
static bool suspicious(dtype type, const scales *s, const uint8_t *block) {
    if (type == DTYPE_MXFP4) {
        return block[offsetof(block_mxfp4, e)] >= 253; /* 255 is NaN; the two before it overflow with some codes */
    }
    bool found = false;
    for (int k = 0; k < s->count; k++) {
        uint16_t h;
        memcpy(&h, block + s->at[k], sizeof h);
        found |= (h & 0x7c00) == 0x7c00;
    }
    return found;
}

static int64_t find_in_blocks(dtype type, const uint8_t *p, int64_t n) {
    const dtype_info *info = dtype_find(type);
    scales s = {0};
    if (type != DTYPE_MXFP4 && !find_scales(type, &s)) {
        return -1;
    }
    for (int64_t at = 0; at < n; at += info->block, p += info->bytes) {
        float values[QK_K];
        if (suspicious(type, &s, p) && blocks_to_f32(type, p, values, info->block)) {
            int64_t i = find32((const uint8_t *)values, info->block);
            if (i >= 0) {
                return at + i;
            }
        }
    }
    return -1;
}

int64_t find_not_finite(dtype type, const void *in, int64_t n) {
    switch (type) {
    case DTYPE_F32:
        return find32(in, n);
    case DTYPE_F16:
        return find16(in, n, 0x7c00);
    case DTYPE_BF16:
        return find16(in, n, 0x7f80);
    case DTYPE_F64:
        return find64(in, n);
    default:
        return find_in_blocks(type, in, n);
    }
}
