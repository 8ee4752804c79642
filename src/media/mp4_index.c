#include "media/mp4_index.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

/* Bytes that libavformat keeps of a sample: its place, its time and its offset in time. */
enum { ENTRY_BYTES = 32, MOST_DEPTH = 8, MOST_BOXES = 10000 };

typedef struct walk {
    const uint8_t *data;
    int fd;
    int64_t size;
    int boxes;
    int64_t samples, edits; /* of the track being read */
    int64_t entries;        /* of all tracks */
} walk;

static bool read_at(const walk *w, int64_t at, uint8_t *out, int n) {
    if (at < 0 || at > w->size - n) {
        return false;
    }
    if (w->data) {
        memcpy(out, w->data + at, (size_t)n);
        return true;
    }
    return pread(w->fd, out, (size_t)n, at) == n;
}

static uint32_t big_endian(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int64_t add(int64_t a, uint32_t b) {
    const int64_t most = (int64_t)1 << 30;
    return a + b < most ? a + b : most;
}

static bool is_folder(const uint8_t *kind) {
    static const char folders[][5] = {"moov", "trak", "edts", "mdia", "minf", "stbl"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        if (memcmp(kind, folders[i], 4) == 0) {
            return true;
        }
    }
    return false;
}

static void read_boxes(walk *w, int64_t at, int64_t end, int depth) {
    uint8_t head[20];
    while (at <= end - 8 && read_at(w, at, head, 8) && ++w->boxes < MOST_BOXES) {
        const uint8_t *kind = head + 4;
        int64_t size = big_endian(head), content = at + 8;
        if (size == 1 && read_at(w, content, head + 8, 8)) {
            size = (int64_t)(((uint64_t)big_endian(head + 8) << 32 | big_endian(head + 12)) & INT64_MAX);
            content += 8;
        }
        const int64_t next = size == 0 || size > end - at ? end : at + size;
        if (next <= at) {
            return;
        }
        if (is_folder(kind) && depth < MOST_DEPTH) {
            const bool track = memcmp(kind, "trak", 4) == 0;
            if (track) {
                w->samples = w->edits = 0;
            }
            read_boxes(w, content, next, depth + 1);
            w->entries += track ? w->samples * (w->edits > 1 ? w->edits : 1) : 0; /* at most 2^60, added to at most 2^56 */
        } else if (memcmp(kind, "elst", 4) == 0 && read_at(w, content, head, 8)) {
            w->edits = add(w->edits, big_endian(head + 4));
        } else if ((memcmp(kind, "stsz", 4) == 0 || memcmp(kind, "stz2", 4) == 0) && read_at(w, content, head, 12)) {
            w->samples = add(w->samples, big_endian(head + 8));
        }
        if (w->entries > (int64_t)1 << 56) {
            return;
        }
        at = next;
    }
}

omni_status mp4_index_check(const uint8_t *data, size_t size, const char *path, const budget *b, omni_error *err) {
    walk w = {.data = data, .fd = -1, .size = (int64_t)size};
    if (!data) {
        w.fd = open(path, O_RDONLY | O_CLOEXEC);
        w.size = w.fd >= 0 ? lseek(w.fd, 0, SEEK_END) : -1;
    }
    read_boxes(&w, 0, w.size, 0);
    if (w.fd >= 0) {
        close(w.fd);
    }
    const int64_t most = INT64_MAX / ENTRY_BYTES, entries = w.entries > most ? most : w.entries;
    return entries * ENTRY_BYTES <= b->limits.memory ? OMNI_OK : budget_no_memory(b, path, entries * ENTRY_BYTES, err);
}
