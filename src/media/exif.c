#define _GNU_SOURCE /* memmem */
#include "media/exif.h"

#include <stdbool.h>
#include <string.h>

typedef struct span {
    const uint8_t *data;
    size_t size;
} span;

/* EXIF and XMP data of a file; the first of each counts. */
typedef struct metadata {
    span exif, xmp;
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

/* The value of the tag in the first directory of TIFF data; 0 without one. */
static int tiff_orientation(span s) {
    enum { ORIENTATION = 0x0112, TYPE_BYTE = 1, TYPE_SHORT = 3, TYPE_LONG = 4, ENTRY = 12 };
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
        const uint32_t type = read_number(d.data + 2, 2, little);
        const int bytes = type == TYPE_BYTE ? 1 : type == TYPE_SHORT ? 2 : type == TYPE_LONG ? 4 : 0;
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

static void read_png(span s, metadata *m) {
    static const char xmp[] = "XML:com.adobe.xmp";
    for (s = skip(s, 8); s.size >= 12;) {
        const size_t length = read_number(s.data, 4, false);
        if (length > s.size - 12) {
            return;
        }
        const span content = {s.data + 8, length};
        if (memcmp(s.data + 4, "eXIf", 4) == 0) {
            m->exif = content;
        } else if (memcmp(s.data + 4, "iTXt", 4) == 0 && starts_with(content, xmp, sizeof xmp) && length > sizeof xmp && !content.data[sizeof xmp]) {
            m->xmp = content;
        }
        s = skip(s, length + 12);
    }
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

orientation exif_orientation(const uint8_t *file, size_t size) {
    const span s = {file, size};
    metadata m = {0};
    if (starts_with(s, "\xff\xd8", 2)) {
        read_jpeg(s, &m);
    } else if (starts_with(s, "\x89PNG", 4)) {
        read_png(s, &m);
    } else if (starts_with(s, "RIFF", 4)) {
        read_webp(s, &m);
    } else {
        m.exif = s; /* TIFF; tiff_orientation looks */
    }
    for (int i = 0; i < 2 && starts_with(m.exif, "Exif\0", 6); i++) { /* some writers put JPEG's prefix elsewhere, too */
        m.exif = skip(m.exif, 6);
    }
    const int value = tiff_orientation(m.exif);
    return orientation_exif(value ? value : xmp_orientation(m.xmp));
}
