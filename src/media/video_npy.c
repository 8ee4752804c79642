/* NumPy's .npy format, versions 1 to 3: magic, version, length of the header, a Python dictionary as text, then the values.
 * Only what a video needs: uint8 of four dimensions in C order. */
#include <stdbool.h>
#include <string.h>

#include "media/video_source.h"

enum { MAX_DIMS = 8, MAX_HEADER = 1 << 16 };

/* The header's text. */
typedef struct reader {
    const char *at, *end;
} reader;

static void skip_space(reader *r) {
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r')) {
        r->at++;
    }
}

static bool accept(reader *r, char c) {
    skip_space(r);
    if (r->at < r->end && *r->at == c) {
        r->at++;
        return true;
    }
    return false;
}

static bool accept_word(reader *r, const char *word) {
    size_t n = strlen(word);
    skip_space(r);
    if ((size_t)(r->end - r->at) >= n && memcmp(r->at, word, n) == 0) {
        r->at += n;
        return true;
    }
    return false;
}

/* A quoted string without escapes, at most size - 1 bytes. */
static bool read_string(reader *r, char *out, size_t size) {
    skip_space(r);
    if (r->at >= r->end || (*r->at != '\'' && *r->at != '"')) {
        return false;
    }
    char quote = *r->at++;
    size_t n = 0;
    while (r->at < r->end && *r->at != quote) {
        if (n + 1 >= size || *r->at == '\\') {
            return false;
        }
        out[n++] = *r->at++;
    }
    out[n] = 0;
    return r->at++ < r->end;
}

static bool read_number(reader *r, int64_t *out) {
    skip_space(r);
    int64_t v = 0;
    const char *start = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9') {
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *r->at - '0', &v)) {
            return false;
        }
        r->at++;
    }
    *out = v;
    return r->at > start;
}

/* (a, b, ...); a comma may follow the last. */
static bool read_shape(reader *r, int64_t shape[MAX_DIMS], int *dims) {
    *dims = 0;
    if (!accept(r, '(')) {
        return false;
    }
    while (!accept(r, ')')) {
        if (*dims == MAX_DIMS || (*dims > 0 && (r->at == r->end))) {
            return false;
        }
        if (!read_number(r, &shape[(*dims)++])) {
            return false;
        }
        if (!accept(r, ',')) {
            return accept(r, ')');
        }
    }
    return true;
}

omni_status npy_parse(const uint8_t *data, size_t size, const char *name, npy_video *out, omni_error *err) {
    static const uint8_t magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};
    *out = (npy_video){0};
    if (size < 12 || memcmp(data, magic, 6) != 0) {
        return fail(err, OMNI_ERR_FORMAT, "%s: not a NumPy file", name);
    }
    int version = data[6];
    if (version < 1 || version > 3) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: version %d of the NumPy format (1 to 3 are known)", name, version);
    }
    size_t begin = version == 1 ? 10 : 12, length = (size_t)data[8] | (size_t)data[9] << 8;
    if (version > 1) {
        length |= (size_t)data[10] << 16 | (size_t)data[11] << 24;
    }
    if (length > MAX_HEADER || length > size - begin) {
        return fail(err, OMNI_ERR_FORMAT, "%s: a NumPy header of %zu bytes in a file of %zu", name, length, size);
    }
    reader r = {(const char *)data + begin, (const char *)data + begin + length};
    char key[32], type[16] = "";
    int64_t shape[MAX_DIMS] = {0};
    int dims = -1;
    bool fortran = false, order = false, good = accept(&r, '{');
    while (good && !accept(&r, '}')) {
        good = read_string(&r, key, sizeof key) && accept(&r, ':');
        if (!good) {
            break;
        }
        if (strcmp(key, "descr") == 0) {
            good = read_string(&r, type, sizeof type);
        } else if (strcmp(key, "fortran_order") == 0) {
            fortran = accept_word(&r, "True");
            good = order = fortran || accept_word(&r, "False");
        } else if (strcmp(key, "shape") == 0) {
            good = read_shape(&r, shape, &dims);
        } else {
            good = false;
        }
        if (good && !accept(&r, ',')) {
            good = accept(&r, '}');
            break;
        }
    }
    if (!good || dims < 0 || !order || !type[0]) {
        return fail(err, OMNI_ERR_FORMAT, "%s: the NumPy header is not a dictionary of descr, fortran_order and shape", name);
    }
    if (strcmp(type + (strchr("|<>=", type[0]) != NULL), "u1") != 0) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: a NumPy array of type %s; a video must be uint8", name, type);
    }
    if (fortran) {
        return fail(err, OMNI_ERR_UNSUPPORTED, "%s: a NumPy array in Fortran order; save it in C order (numpy.ascontiguousarray)", name);
    }
    if (dims != 4 || shape[3] != 3 || shape[0] < 1 || shape[1] < 1 || shape[2] < 1) {
        return fail(err, OMNI_ERR_FORMAT, "%s: a NumPy array of %d dimensions (first %lld, last %lld); a video is [frames, height, width, 3]", name,
                    dims, (long long)shape[0], (long long)(dims > 0 ? shape[dims - 1] : 0));
    }
    int64_t need = 3;
    for (int i = 0; i < 3; i++) {
        if (shape[i] > INT32_MAX || __builtin_mul_overflow(need, shape[i], &need)) {
            need = INT64_MAX;
            break;
        }
    }
    size_t left = size - begin - length;
    if ((uint64_t)need > left) {
        return fail(err, OMNI_ERR_FORMAT, "%s: %lld x %lld x %lld x 3 values announced, but %zu bytes of data", name, (long long)shape[0],
                    (long long)shape[1], (long long)shape[2], left);
    }
    *out = (npy_video){.frames = shape[0], .height = shape[1], .width = shape[2], .values = data + begin + length};
    return OMNI_OK;
}
