#include "text/unicode_class.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"
#include "text/unicode_tables.h"

static void mark(uint8_t *classes, const unicode_range *ranges, size_t count, uint8_t bits) {
    for (size_t i = 0; i < count; i++) {
        for (uint32_t c = ranges[i].first; c <= ranges[i].last; c++) {
            classes[c] |= bits;
        }
    }
}

uint8_t *unicode_classes(void) {
    uint8_t *classes = calloc(UNICODE_SIZE, 1);
    if (classes) {
        mark(classes, unicode_letter, unicode_letter_count, CLASS_LETTER);
        mark(classes, unicode_number, unicode_number_count, CLASS_NUMBER);
        mark(classes, unicode_space, unicode_space_count, CLASS_SPACE);
        mark(classes, unicode_nfc_active, unicode_nfc_active_count, CLASS_NFC_ACTIVE);
    }
    return classes;
}

/* Output text, and the code points of the stretch being normalised. */
typedef struct nfc_work {
    char *text;
    size_t size, room;
    utf8proc_int32_t *codes, *sorted;
    size_t codes_room;
} nfc_work;

static bool grow_text(nfc_work *w, size_t more) {
    if (w->room - w->size >= more) {
        return true;
    }
    if (more > SIZE_MAX / 4 || w->size > SIZE_MAX / 4) {
        return false;
    }
    size_t room = (w->size + more) + (w->size + more) / 2;
    char *text = realloc(w->text, room);
    if (text) {
        w->text = text;
        w->room = room;
    }
    return text != NULL;
}

static bool put_text(nfc_work *w, const char *s, size_t n) {
    if (!grow_text(w, n)) {
        return false;
    }
    memcpy(w->text + w->size, s, n);
    w->size += n;
    return true;
}

static bool grow_codes(nfc_work *w, size_t room) {
    if (room <= w->codes_room) {
        return true;
    }
    room += room / 2;
    free(w->codes);
    free(w->sorted);
    w->codes = room > SIZE_MAX / sizeof *w->codes ? NULL : malloc(room * sizeof *w->codes);
    w->sorted = room > SIZE_MAX / sizeof *w->codes ? NULL : malloc(room * sizeof *w->sorted);
    w->codes_room = w->codes && w->sorted ? room : 0;
    return w->codes_room > 0;
}

static unsigned combining_class(utf8proc_int32_t c) {
    return (unsigned)utf8proc_get_property(c)->combining_class;
}

/* Canonical order (Unicode 3.11): each run of marks sorted by class, equal classes kept in order. */
static void sort_marks(utf8proc_int32_t *run, size_t n, utf8proc_int32_t *scratch) {
    if (n <= 16) {
        for (size_t i = 1; i < n; i++) {
            utf8proc_int32_t c = run[i];
            size_t k = i;
            for (; k > 0 && combining_class(run[k - 1]) > combining_class(c); k--) {
                run[k] = run[k - 1];
            }
            run[k] = c;
        }
        return;
    }
    size_t start[257] = {0};
    for (size_t i = 0; i < n; i++) {
        start[combining_class(run[i]) + 1]++;
    }
    for (size_t i = 1; i < 257; i++) {
        start[i] += start[i - 1];
    }
    memcpy(scratch, run, n * sizeof *run);
    for (size_t i = 0; i < n; i++) {
        run[start[combining_class(scratch[i])]++] = scratch[i];
    }
}

static void canonical_order(nfc_work *w, size_t n) {
    for (size_t i = 0; i < n;) {
        size_t k = i;
        while (k < n && combining_class(w->codes[k]) != 0) {
            k++;
        }
        if (k - i > 1) {
            sort_marks(w->codes + i, k - i, w->sorted);
        }
        i = k + 1;
    }
}

/* Appends the NFC of a stretch of valid UTF-8: at most one inactive character, then active ones. */
static bool put_normalised(nfc_work *w, const char *s, size_t n) {
    enum { LONGEST = 4 }; /* code points that one of them may decompose to */
    size_t count = 0;
    if (n > SIZE_MAX / LONGEST / 2 || !grow_codes(w, n * LONGEST)) {
        return false;
    }
    for (size_t i = 0, length; i < n; i += length) {
        utf8proc_int32_t code = (utf8proc_int32_t)utf8_next(s + i, &length);
        utf8proc_ssize_t k = utf8proc_decompose_char(code, w->codes + count, LONGEST, UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, NULL);
        if (k < 0 || k > LONGEST) {
            w->codes[count] = code;
            k = 1;
        }
        count += (size_t)k;
    }
    canonical_order(w, count);
    utf8proc_ssize_t composed = utf8proc_normalize_utf32(w->codes, (utf8proc_ssize_t)count, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    if (composed < 0 || !grow_text(w, (size_t)composed * 4)) {
        return false;
    }
    for (utf8proc_ssize_t i = 0; i < composed; i++) {
        w->size += utf8_encode((uint32_t)w->codes[i], w->text + w->size);
    }
    return true;
}

/* Whether c, which is inactive, may be given to utf8proc together with the active characters behind it. Not so when utf8proc knows
 * more about it than the reference: a mark that it would move, or a letter that it would compose (Todhri, new in Unicode 16; other
 * new compositions need marks that are new as well, and those are inactive). */
static bool may_lead(uint32_t c) {
    return combining_class((utf8proc_int32_t)c) == 0 && !(c >= 0x105C0 && c <= 0x105FF);
}

static bool normalise(const uint8_t *classes, const char *s, size_t n, nfc_work *w) {
    size_t done = 0, before = 0; /* copied so far; start of the character before i */
    for (size_t i = 0; i < n;) {
        size_t length;
        uint32_t c = utf8_next(s + i, &length);
        if (!(classes[c] & CLASS_NFC_ACTIVE)) {
            before = i;
            i += length;
            continue;
        }
        size_t start = i, end = i, prior_length;
        if (before < i && before >= done && may_lead(utf8_next(s + before, &prior_length))) {
            start = before;
        }
        while (end < n && (classes[utf8_next(s + end, &length)] & CLASS_NFC_ACTIVE)) {
            end += length;
        }
        if (!put_text(w, s + done, start - done) || !put_normalised(w, s + start, end - start)) {
            return false;
        }
        done = before = i = end;
    }
    return put_text(w, s + done, n - done);
}

/* One pass that finds the usual case: valid, and nothing for NFC to do. */
static void inspect(const uint8_t *classes, const char *s, size_t n, bool *valid, bool *active) {
    *valid = true;
    *active = false;
    for (size_t i = 0; i < n;) {
        uint64_t word;
        if (n - i >= 8 && (memcpy(&word, s + i, 8), (word & 0x8080808080808080u) == 0)) {
            i += 8;
            continue;
        }
        if ((uint8_t)s[i] < 0x80) {
            i++;
            continue;
        }
        uint32_t code;
        size_t length = utf8_decode(s + i, n - i, &code);
        if (code == 0xFFFD && !(length == 3 && memcmp(s + i, "\xEF\xBF\xBD", 3) == 0)) {
            *valid = false;
        }
        *active |= (classes[code] & CLASS_NFC_ACTIVE) != 0;
        i += length;
    }
}

omni_status unicode_nfc(const uint8_t *classes, const char *s, size_t n, char **out, size_t *out_n, omni_error *err) {
    bool valid, active;
    inspect(classes, s, n, &valid, &active);
    char *repaired = NULL;
    *out = (char *)(uintptr_t)s;
    *out_n = n;
    if (!valid) {
        repaired = utf8_repair(s, n, out_n);
        if (!repaired) {
            return fail(err, OMNI_ERR_MEMORY, "no memory to read %zu bytes of text", n);
        }
        *out = repaired;
    }
    if (!active) {
        return OMNI_OK;
    }
    nfc_work w = {0};
    bool ok = grow_text(&w, *out_n) && normalise(classes, *out, *out_n, &w);
    free(w.codes);
    free(w.sorted);
    free(repaired);
    if (!ok) {
        free(w.text);
        return fail(err, OMNI_ERR_MEMORY, "no memory to normalise %zu bytes of text", n);
    }
    *out = w.text;
    *out_n = w.size;
    return OMNI_OK;
}
