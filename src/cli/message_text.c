#include "cli/message_text.h"

#include <string.h>

static const char QUOTES[] = "\"\"\"";
enum { QUOTES_SIZE = 3 };

/* What follows the """ that a message begins with; NULL when it begins with something else. */
static char *block(const char *text) {
    text += strspn(text, " \t");
    return strncmp(text, QUOTES, QUOTES_SIZE) == 0 ? (char *)text + QUOTES_SIZE : NULL;
}

bool message_block_open(const char *text) {
    const char *inside = block(text);
    return inside && !strstr(inside, QUOTES);
}

bool message_goes_on(char *text) {
    if (message_block_open(text)) {
        return true;
    }
    const size_t size = strlen(text);
    size_t slashes = 0;
    while (slashes < size && text[size - 1 - slashes] == '\\') {
        slashes++;
    }
    if (slashes % 2 == 0) {
        return false;
    }
    text[size - 1] = 0;
    return true;
}

void message_trim(char *text) {
    size_t n = strlen(text);
    while (n > 0 && strchr(" \t\r\n\f\v", text[n - 1])) {
        text[--n] = 0;
    }
}

char *message_finish(char *text, bool *is_block) {
    message_trim(text);
    char *inside = block(text), *end = inside ? strstr(inside, QUOTES) : NULL;
    *is_block = end && end[QUOTES_SIZE] == 0; /* text behind the second """: no block, but something that begins like one */
    if (!*is_block) {
        return text;
    }
    *end = 0;
    if (end > inside && end[-1] == '\n') {
        end[-1] = 0;
    }
    return inside + (*inside == '\n');
}
