/* The reference tokenizer's idea of Unicode, as sorted ranges of code points, both ends included (see make_unicode_tables.py). */
#ifndef OMNI_TEXT_UNICODE_TABLES_H
#define OMNI_TEXT_UNICODE_TABLES_H

#include <stddef.h>
#include <stdint.h>

typedef struct unicode_range {
    uint32_t first, last;
} unicode_range;

extern const unicode_range unicode_letter[], unicode_number[], unicode_space[];
extern const size_t unicode_letter_count, unicode_number_count, unicode_space_count;
/* Code points that NFC changes, moves, or joins to what stands before them. */
extern const unicode_range unicode_nfc_active[];
extern const size_t unicode_nfc_active_count;

#endif
