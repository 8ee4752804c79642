#define _GNU_SOURCE /* memmem */
#include "media/exif.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

typedef struct span {
    const uint8_t *data;
    size_t size;
} span;

enum { MOST_TEXT = 1 << 20 }; /* bytes; Pillow refuses larger ones */

/* EXIF and XMP data of a file; the first of each counts, of a PNG file the last. */
typedef struct metadata {
    span exif, xmp;
    span profile; /* EXIF data in hexadecimal digits, behind three lines */
    bool xmp_deflated, profile_deflated;
} metadata;

static uint32_t read_number(const uint8_t *p, int bytes, bool little) {
    uint32_t v = 0;
    for (int i = 0; i < bytes; i++) {
        v |= (uint32_t)p[i] << 8 * (little ? i : bytes - 1 - i);
    }
    return v;
}

static bool starts_with(span s, const void *with, size_t n) {
    return s.size >= n && memcmp(s.data, with, n) == 0;
}

static span skip(span s, size_t n) {
    return n <= s.size ? (span){s.data + n, s.size - n} : (span){0};
}

/* Bytes of a whole number of a type of TIFF; 0: other types, also BYTE, of which Pillow makes no number. */
static int number_bytes(uint32_t type) {
    enum { SHORT = 3, LONG = 4, SIGNED_BYTE = 6, SIGNED_SHORT = 8, SIGNED_LONG = 9, DIRECTORY = 13 };
    switch (type) {
    case SIGNED_BYTE:
        return 1;
    case SHORT:
    case SIGNED_SHORT:
        return 2;
    case LONG:
    case SIGNED_LONG:
    case DIRECTORY:
        return 4;
    default:
        return 0;
    }
}

/* The value of the tag in the first directory of TIFF data; 0 without one. */
static int tiff_orientation(span s) {
    enum { ORIENTATION = 0x0112, ENTRY = 12 };
    const bool little = starts_with(s, "II*\0", 4);
    if (!little && !starts_with(s, "MM\0*", 4)) {
        return 0;
    }
    span d = s.size >= 8 ? skip(s, read_number(s.data + 4, 4, little)) : (span){0};
    if (d.size < 2) {
        return 0;
    }
    const uint32_t count = read_number(d.data, 2, little);
    d = skip(d, 2);
    for (uint32_t i = 0; i < count && d.size >= ENTRY; i++, d = skip(d, ENTRY)) {
        if (read_number(d.data, 2, little) != ORIENTATION || read_number(d.data + 4, 4, little) != 1) {
            continue;
        }
        const int bytes = number_bytes(read_number(d.data + 2, 2, little));
        const uint32_t value = bytes ? read_number(d.data + 8, bytes, little) : 0;
        return value >= 1 && value <= 8 ? (int)value : 0;
    }
    return 0;
}

/* XMP is XML: the number stands in an attribute or in an element. */
static int xmp_orientation(span s) {
    static const char key[] = "tiff:Orientation";
    for (const uint8_t *at; s.size > 0 && (at = memmem(s.data, s.size, key, sizeof key - 1));) {
        s = skip(s, (size_t)(at - s.data) + sizeof key - 1);
        const size_t n = starts_with(s, "=\"", 2) ? 2 : starts_with(s, ">", 1) ? 1 : 0;
        if (n > 0 && s.size > n && s.data[n] >= '0' && s.data[n] <= '9') {
            return s.data[n] - '0';
        }
    }
    return 0;
}

/* Segments in front of the picture data. */
static void read_jpeg(span s, metadata *m) {
    static const char exif[] = "Exif\0", xmp[] = "http://ns.adobe.com/xap/1.0/";
    for (s = skip(s, 2); s.size >= 4 && s.data[0] == 0xff;) {
        const int marker = s.data[1];
        if (marker == 0xff) { /* padding */
            s = skip(s, 1);
            continue;
        }
        if (marker == 0xda || marker == 0xd9) {
            return;
        }
        const size_t length = read_number(s.data + 2, 2, false);
        if (length < 2 || length + 2 > s.size) {
            return;
        }
        const span content = {s.data + 4, length - 2};
        if (marker == 0xe1 && starts_with(content, exif, 6) && !m->exif.data) {
            m->exif = skip(content, 6);
        } else if (marker == 0xe1 && starts_with(content, xmp, sizeof xmp)) {
            m->xmp = skip(content, sizeof xmp);
        }
        s = skip(s, length + 2);
    }
}

/* What stands behind a string that ends with a zero byte. */
static span behind_string(span s) {
    const uint8_t *end = s.size ? memchr(s.data, 0, s.size) : NULL;
    return end ? skip(s, (size_t)(end - s.data) + 1) : (span){0};
}

/* The value of a text chunk; without data where the chunk is damaged. */
static span text_value(const uint8_t *kind, span content, bool *deflated) {
    span value = behind_string(content);
    *deflated = memcmp(kind, "zTXt", 4) == 0;
    if (memcmp(kind, "iTXt", 4) == 0) { /* flag, method, language, keyword */
        *deflated = value.size > 0 && value.data[0];
        return behind_string(behind_string(skip(value, 2)));
    }
    return *deflated ? skip(value, 1) : value;
}

static void read_png(span s, metadata *m) {
    static const char xmp[] = "XML:com.adobe.xmp", profile[] = "Raw profile type exif";
    for (s = skip(s, 8); s.size >= 12;) {
        const size_t length = read_number(s.data, 4, false);
        if (length > s.size - 12) {
            return;
        }
        const span content = {s.data + 8, length};
        const uint8_t *kind = s.data + 4;
        bool deflated;
        if (memcmp(kind, "eXIf", 4) == 0) {
            m->exif = content;
        } else if (memcmp(kind, "tEXt", 4) == 0 || memcmp(kind, "zTXt", 4) == 0 || memcmp(kind, "iTXt", 4) == 0) {
            const span value = text_value(kind, content, &deflated);
            if (value.data && starts_with(content, xmp, sizeof xmp)) {
                m->xmp = value;
                m->xmp_deflated = deflated;
            } else if (value.data && starts_with(content, profile, sizeof profile)) {
                m->profile = value;
                m->profile_deflated = deflated;
            }
        }
        s = skip(s, length + 12);
    }
}

/* Inflates in into MOST_TEXT bytes; nothing where that fails or does not fit. */
static span inflated(span in, uint8_t *out) {
    uLongf size = MOST_TEXT;
    return uncompress(out, &size, in.data, in.size) == Z_OK ? (span){out, size} : (span){0};
}

static int digit(uint8_t c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The bytes that the digits behind the third line stand for, in place; nothing where there is anything else. */
static span profile_bytes(uint8_t *text, size_t size) {
    size_t at = 0, n = 0;
    for (int lines = 0; at < size && lines < 3; at++) {
        lines += text[at] == '\n';
    }
    while (at < size) {
        if (text[at] == '\n' || text[at] == ' ' || text[at] == '\r' || text[at] == '\t') {
            at++;
            continue;
        }
        const int high = digit(text[at]), low = at + 1 < size ? digit(text[at + 1]) : -1;
        if (high < 0 || low < 0) {
            return (span){0};
        }
        text[n++] = (uint8_t)(high << 4 | low);
        at += 2;
    }
    return (span){text, n};
}

static void read_webp(span s, metadata *m) {
    for (s = skip(s, 12); s.size >= 8;) {
        const size_t length = read_number(s.data + 4, 4, true);
        if (length > s.size - 8) {
            return;
        }
        const span content = {s.data + 8, length};
        if (memcmp(s.data, "EXIF", 4) == 0 && !m->exif.data) {
            m->exif = content;
        } else if (memcmp(s.data, "XMP ", 4) == 0 && !m->xmp.data) {
            m->xmp = content;
        }
        s = skip(s, 8 + length + (length & 1));
    }
}

static span without_prefix(span exif) {
    for (int i = 0; i < 2 && starts_with(exif, "Exif\0", 6); i++) { /* some writers put JPEG's prefix elsewhere, too */
        exif = skip(exif, 6);
    }
    return exif;
}

/* text has MOST_TEXT bytes where a text of m needs them. */
static int value_of(const metadata *m, uint8_t *text) {
    span exif = m->exif, xmp = m->xmp;
    if (!exif.data && m->profile.data) {
        span profile = m->profile_deflated ? inflated(m->profile, text) : m->profile;
        profile.size = profile.size < MOST_TEXT ? profile.size : MOST_TEXT;
        if (profile.data && profile.data != text) {
            memcpy(text, profile.data, profile.size);
        }
        exif = profile_bytes(text, profile.size);
    }
    const int value = tiff_orientation(without_prefix(exif));
    if (value == 0 && m->xmp_deflated) {
        xmp = inflated(xmp, text);
    }
    return value ? value : xmp_orientation(xmp);
}

omni_status exif_orientation(const uint8_t *file, size_t size, const char *name, budget *b, orientation *out, omni_error *err) {
    const span s = {file, size};
    metadata m = {0};
    uint8_t *text = NULL;
    if (starts_with(s, "\xff\xd8", 2)) {
        read_jpeg(s, &m);
    } else if (starts_with(s, "\x89PNG", 4)) {
        read_png(s, &m);
    } else if (starts_with(s, "RIFF", 4)) {
        read_webp(s, &m);
    } else {
        m.exif = s; /* TIFF; tiff_orientation looks */
    }
    if (m.xmp_deflated || m.profile.data) {
        TRY(budget_hold(b, name, MOST_TEXT, err));
        text = malloc(MOST_TEXT);
        if (!text) {
            budget_release(b, MOST_TEXT);
            return fail(err, OMNI_ERR_MEMORY, "%s: out of memory", name);
        }
    }
    *out = orientation_exif(value_of(&m, text));
    if (text) {
        free(text);
        budget_release(b, MOST_TEXT);
    }
    return OMNI_OK;
}
