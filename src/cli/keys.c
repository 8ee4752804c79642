#define _GNU_SOURCE
#include "cli/keys.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utf8proc.h>

enum {
    SEQUENCE_WAIT = 100, /* milliseconds after which a sequence is over, finished or not: then Escape was a key of its own, say */
    PASTE_WAIT = 3000,   /* the same for a paste, whose end marker may be lost */
    ESC = 0x1B,
    DEL = 0x7F,
    PUT_BACK = 4, /* bytes kept free before the input */
};

/* What next() returns beside bytes. */
enum { LATE = -1, CLOSED = -2, SIGNALLED = -3 };

/* The next byte; wait: milliseconds, or -1: until there is one, or a signal. */
static int next(key_reader *r, int wait, const volatile sig_atomic_t *signalled) {
    while (r->begin == r->end) {
        if (signalled && *signalled) {
            return SIGNALLED;
        }
        struct pollfd p = {.fd = r->fd, .events = POLLIN};
        const struct timespec time = {wait / 1000, wait % 1000 * 1000000L};
        int ready = ppoll(&p, 1, wait < 0 ? NULL : &time, signalled ? r->unblocked : NULL);
        if (ready == 0) {
            return LATE;
        }
        ssize_t n = ready < 0 ? -1 : read(r->fd, r->in + PUT_BACK, sizeof r->in - PUT_BACK);
        if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) {
            return CLOSED;
        }
        r->begin = PUT_BACK;
        r->end = PUT_BACK + (n > 0 ? (size_t)n : 0);
    }
    return r->in[r->begin++];
}

static void put_back(key_reader *r, int c) {
    if (c >= 0) {
        r->in[--r->begin] = (unsigned char)c;
    }
}

int keys_waiting(key_reader *r) {
    return r->begin < r->end || poll(&(struct pollfd){.fd = r->fd, .events = POLLIN}, 1, 0) > 0;
}

static key plain(key_kind kind) {
    return (key){.kind = kind};
}

static key control(key_reader *r, int c) {
    r->character[0] = (char)(c + '@');
    return (key){KEY_CONTROL, r->character, 1};
}

/* A character that begins with c; what is no UTF-8, or a control character of two bytes, is left out. */
static key character(key_reader *r, int c) {
    size_t size = c < 0x80 ? 1 : c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2, n = 1;
    r->character[0] = (char)c;
    while (n < size) {
        int more = next(r, SEQUENCE_WAIT, NULL);
        if (more < 0x80 || more > 0xBF) {
            put_back(r, more);
            return plain(KEY_IGNORED);
        }
        r->character[n++] = (char)more;
    }
    utf8proc_int32_t code;
    if (utf8proc_iterate((const utf8proc_uint8_t *)r->character, (utf8proc_ssize_t)n, &code) != (utf8proc_ssize_t)n ||
        (code >= 0x80 && code < 0xA0)) {
        return plain(KEY_IGNORED);
    }
    return (key){KEY_TEXT, r->character, n};
}

/* ---- pastes ---- */

/* Lines end in a newline, other control characters but tabs go, what is no UTF-8 becomes U+FFFD; in place but for that, so *to has room for
 * three times the size. Returns the size. */
static size_t clean_paste(const char *from, size_t size, char *to) {
    size_t n = 0;
    for (size_t i = 0; i < size;) {
        utf8proc_int32_t code;
        utf8proc_ssize_t length = utf8proc_iterate((const utf8proc_uint8_t *)from + i, (utf8proc_ssize_t)(size - i), &code);
        if (length <= 0) {
            memcpy(to + n, "\xEF\xBF\xBD", 3);
            n += 3;
            i++;
            continue;
        }
        if (code == '\r') {
            to[n++] = '\n';
            i += i + 1 < size && from[i + 1] == '\n';
        } else if (code == '\n' || code == '\t' || (code >= 0x20 && (code < DEL || code >= 0xA0))) {
            memcpy(to + n, from + i, (size_t)length);
            n += (size_t)length;
        }
        i += (size_t)length;
    }
    return n;
}

static bool paste_room(key_reader *r, size_t need) {
    if (need > r->paste_room) {
        char *larger = realloc(r->paste, 2 * need);
        if (!larger) {
            return false;
        }
        r->paste = larger;
        r->paste_room = 2 * need;
    }
    return true;
}

/* Up to ESC [ 2 0 1 ~ . */
static key paste(key_reader *r) {
    static const char ends[] = "\x1b[201~";
    enum { ENDS = sizeof ends - 1 };
    size_t size = 0;
    bool fits = true;
    int c;
    while ((c = next(r, PASTE_WAIT, NULL)) >= 0) {
        fits = fits && size < PASTE_MOST && paste_room(r, size + 1);
        if (!fits && size >= ENDS) { /* only the end is looked for */
            memmove(r->paste, r->paste + size - ENDS + 1, ENDS - 1);
            size = ENDS - 1;
        }
        if (size < r->paste_room) {
            r->paste[size++] = (char)c;
        }
        if (size >= ENDS && memcmp(r->paste + size - ENDS, ends, ENDS) == 0) {
            size -= ENDS;
            break;
        }
    }
    if (!fits || !paste_room(r, 4 * size + 1)) {
        return plain(KEY_PASTE_TOO_LARGE);
    }
    return (key){KEY_PASTE, r->paste + size, clean_paste(r->paste, size, r->paste + size)};
}

/* ---- sequences ---- */

/* A string up to BEL or ESC \. Another control character breaks it off: it is a key. */
static key skip_string(key_reader *r) {
    int c = next(r, SEQUENCE_WAIT, NULL);
    while (c >= 0x20) {
        c = next(r, SEQUENCE_WAIT, NULL);
    }
    if (c == ESC) {
        int last = next(r, SEQUENCE_WAIT, NULL);
        if (last >= 0 && last != '\\') { /* another sequence begins */
            put_back(r, last);
            put_back(r, c);
        }
    } else if (c != 0x07) {
        put_back(r, c);
    }
    return plain(KEY_IGNORED);
}

/* An arrow or the like, by the final letter of CSI and SS3; apart: with Ctrl or Alt. */
static key by_letter(int letter, bool apart) {
    switch (letter) {
    case 'A':
        return plain(KEY_UP);
    case 'B':
        return plain(KEY_DOWN);
    case 'C':
        return plain(apart ? KEY_WORD_RIGHT : KEY_RIGHT);
    case 'D':
        return plain(apart ? KEY_WORD_LEFT : KEY_LEFT);
    case 'a': /* rxvt: with Shift, or behind SS3 with Ctrl */
        return plain(KEY_UP);
    case 'b':
        return plain(KEY_DOWN);
    case 'c':
        return plain(KEY_WORD_RIGHT);
    case 'd':
        return plain(KEY_WORD_LEFT);
    case 'H':
        return plain(KEY_HOME);
    case 'F':
        return plain(KEY_END_OF_LINE);
    case 'M': /* the keypad's Enter in application mode (SS3) */
        return plain(KEY_ENTER);
    default:
        return plain(KEY_IGNORED);
    }
}

/* CSI NUMBER ~ and rxvt's NUMBER ^, $, @ */
static key by_number(int number, bool apart) {
    switch (number) {
    case 1:
    case 7:
        return plain(KEY_HOME);
    case 4:
    case 8:
        return plain(KEY_END_OF_LINE);
    case 3:
        return plain(apart ? KEY_ERASE_WORD_RIGHT : KEY_DELETE);
    default:
        return plain(KEY_IGNORED);
    }
}

/* Behind ESC [ */
static key control_sequence(key_reader *r) {
    int numbers[2] = {0}, count = 0, c = next(r, SEQUENCE_WAIT, NULL);
    bool private = false;
    const bool bare = c < 0x20 || c > 0x3F;
    if (c == '[') { /* the Linux console's F1 to F5 */
        c = next(r, SEQUENCE_WAIT, NULL);
        if (c < 0x40 || c >= DEL) {
            put_back(r, c);
        }
        return plain(KEY_IGNORED);
    }
    if (c == 'M') { /* a mouse report: three bytes of any kind */
        for (int i = 0; i < 3 && next(r, SEQUENCE_WAIT, NULL) >= 0; i++) {
        }
        return plain(KEY_IGNORED);
    }
    for (; c >= 0x30 && c <= 0x3F; c = next(r, SEQUENCE_WAIT, NULL)) { /* parameters */
        if (c >= '0' && c <= '9' && count < 2 && numbers[count] < 10000) {
            numbers[count] = 10 * numbers[count] + c - '0';
        } else if (c == ';' && count < 2) {
            count++;
        } else if (c > ';') {
            private = true;
        }
    }
    if (c == '$' && !private && count == 0 && !bare) { /* rxvt: with Shift */
        return by_number(numbers[0], false);
    }
    while (c >= 0x20 && c < 0x30) { /* intermediate bytes */
        private = true;
        c = next(r, SEQUENCE_WAIT, NULL);
    }
    if (c < 0x40 || c >= DEL) { /* broken off: the byte is a key of its own */
        put_back(r, c);
        return plain(KEY_IGNORED);
    }
    if (private) {
        return plain(KEY_IGNORED);
    }
    const bool apart = count > 0 && numbers[1] > 2; /* 1 + Shift + 2 Alt + 4 Ctrl */
    if (c == '~' && numbers[0] == 200) {
        return paste(r);
    }
    if (c == 'u') { /* any key with modifiers: CSI CODE ; MODIFIERS u */
        return numbers[0] == '\r' ? plain(apart || numbers[1] == 2 ? KEY_NEWLINE : KEY_ENTER) : plain(KEY_IGNORED);
    }
    return c == '~'               ? by_number(numbers[0], apart)
           : c == '^' || c == '@' ? by_number(numbers[0], true)
           : c == 'M'             ? plain(KEY_IGNORED)
                                  : by_letter(c, apart);
}

/* Behind ESC O */
static key single_shift(key_reader *r) {
    int c = next(r, SEQUENCE_WAIT, NULL);
    bool apart = false;
    while ((c >= '0' && c <= '9') || c == ';') {
        apart = c > '2';
        c = next(r, SEQUENCE_WAIT, NULL);
    }
    if (c < 0x40 || c >= DEL) {
        put_back(r, c);
        return plain(KEY_IGNORED);
    }
    return by_letter(c, apart);
}

static key escape(key_reader *r) {
    int c = next(r, SEQUENCE_WAIT, NULL);
    switch (c) {
    case '[':
        return control_sequence(r);
    case 'O':
        return single_shift(r);
    case ']':
    case 'P':
    case '_':
    case '^':
    case 'X':
        return skip_string(r);
    case '\r':
    case '\n':
        return plain(KEY_NEWLINE);
    case 'b':
    case 'B':
        return plain(KEY_WORD_LEFT);
    case 'f':
    case 'F':
        return plain(KEY_WORD_RIGHT);
    case 'd':
    case 'D':
        return plain(KEY_ERASE_WORD_RIGHT);
    case DEL:
    case 0x08:
        return plain(KEY_ERASE_WORD_LEFT);
    case ESC: /* Alt and a key that is a sequence: rxvt's Alt+arrows */
        put_back(r, c);
        return plain(KEY_IGNORED);
    default:
        if (c >= 0x80) {
            character(r, c); /* Alt and a letter: the whole of it */
        } else if (c >= 0 && c < 0x20) {
            put_back(r, c);
        }
        return plain(KEY_IGNORED);
    }
}

key keys_read(key_reader *r, const volatile sig_atomic_t *signalled) {
    int c = next(r, -1, signalled);
    switch (c) {
    case SIGNALLED:
        return plain(KEY_SIGNAL);
    case LATE:
    case CLOSED:
        return plain(KEY_CLOSED);
    case '\r':
    case '\n':
        return plain(KEY_ENTER);
    case '\t':
        return plain(KEY_TAB);
    case 0x08:
    case DEL:
        return plain(KEY_BACKSPACE);
    case ESC:
        return escape(r);
    default:
        return c < 0x20 ? control(r, c) : character(r, c);
    }
}

void keys_free(key_reader *r) {
    free(r->paste);
    r->paste = NULL;
}
