/* What a terminal sends, taken apart into keys. Sequences are read whole, known or not, so that none of their bytes pass for text:
 * CSI with any parameters (also rxvt's and the Linux console's own forms, and mouse reports), SS3, and the strings OSC, DCS, APC, PM, SOS,
 * however long, broken off or split in time. Bytes that are no UTF-8 are left out. */
#ifndef OMNI_CLI_KEYS_H
#define OMNI_CLI_KEYS_H

#include <signal.h>
#include <stddef.h>

typedef enum key_kind {
    KEY_IGNORED, /* a whole sequence that means nothing here */
    KEY_TEXT,    /* one character */
    KEY_PASTE,   /* a pasted text: control characters but tabs and newlines are left out, and every line end is a newline */
    KEY_PASTE_TOO_LARGE,
    KEY_CONTROL, /* Ctrl and the letter in text[0] ('A' .. 'Z', or one of [\]^_) */
    KEY_ENTER,
    KEY_NEWLINE, /* Alt+Enter */
    KEY_TAB,
    KEY_BACKSPACE,
    KEY_DELETE,
    KEY_LEFT,
    KEY_RIGHT,
    KEY_UP,
    KEY_DOWN,
    KEY_HOME,
    KEY_END_OF_LINE,
    KEY_WORD_LEFT,
    KEY_WORD_RIGHT,
    KEY_ERASE_WORD_LEFT,
    KEY_ERASE_WORD_RIGHT,
    KEY_SIGNAL, /* a signal has come: the caller's handler knows which */
    KEY_CLOSED, /* the terminal is gone */
} key_kind;

typedef struct key {
    key_kind kind;
    const char *text; /* KEY_TEXT, KEY_PASTE: size bytes, valid until the next key */
    size_t size;
} key;

enum { PASTE_MOST = 8 << 20 }; /* bytes */

typedef struct key_reader {
    int fd;
    const sigset_t *unblocked; /* the signals let through while waiting for a key */
    unsigned char in[4096];
    size_t begin, end;
    char character[4];
    char *paste; /* room bytes */
    size_t paste_room;
} key_reader;

/* Waits for a key. signalled: set by the caller's handlers; looked at before each wait. */
key keys_read(key_reader *r, const volatile sig_atomic_t *signalled);
/* Whether more has come already. */
int keys_waiting(key_reader *r);
void keys_free(key_reader *r);

#endif
