/* omni tokenize: ids and pieces of a text, a line each. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/commands.h"

/* Length of the whole UTF-8 character of several bytes at s, or 0: there is none, or it is a control character. */
static size_t character(const unsigned char *s, size_t n) {
    size_t length = s[0] >= 0xC2 && s[0] < 0xE0 ? 2 : s[0] >= 0xE0 && s[0] < 0xF0 ? 3 : s[0] >= 0xF0 && s[0] < 0xF5 ? 4 : 0;
    for (size_t i = 1; i < length; i++) {
        if (i >= n || (s[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    return length == 2 && s[0] == 0xC2 && s[1] < 0xA0 ? 0 : length;
}

/* A piece with whole characters as they are; controls and parts of characters (many tokens are those) as their bytes. */
static void print_piece(const char *bytes, size_t n) {
    putchar('"');
    for (size_t i = 0, length; i < n; i++) {
        unsigned char b = (unsigned char)bytes[i];
        if (b >= 0x80 && (length = character((const unsigned char *)bytes + i, n - i)) > 0) {
            fwrite(bytes + i, 1, length, stdout);
            i += length - 1;
            continue;
        }
        if (b == '\n') {
            fputs("\\n", stdout);
        } else if (b == '"' || b == '\\') {
            printf("\\%c", b);
        } else if (b < 0x20 || b >= 0x7F) {
            printf("\\x%02x", b);
        } else {
            putchar(b);
        }
    }
    putchar('"');
}

int command_tokenize(int argc, char **argv) {
    const char *model = NULL, *texts[1] = {NULL};
    bool markup = false, ids_only = false;
    const flag flags[] = {
        {"--model", "-m", FLAG_STRING, &model, "F", "thinker GGUF (required)", 0, 0},
        {"--markup", NULL, FLAG_SET, &markup, NULL, "recognise <|im_start|> and the like; without it they are plain text", 0, 0},
        {"--ids", NULL, FLAG_SET, &ids_only, NULL, "only the ids, on one line", 0, 0},
    };
    const command c = {"tokenize", "TEXT", "Prints the tokens of a text: id, then piece.", NULL, flags, sizeof flags / sizeof *flags};
    size_t count = 0;
    int status = args_parse(&c, argc, argv, texts, 1, &count);
    if (status >= 0) {
        return status;
    }
    if (!model || count == 0) {
        fprintf(stderr, "omni tokenize: %s usage: omni tokenize --model F TEXT\n",
                model ? "which text?" : "which model's tokenizer? give --model F;");
        return 2;
    }
    omni_error err = {0};
    omni_tokenizer *t = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    if (omni_tokenizer_open(model, &t, &err) != OMNI_OK || omni_tokenize(t, texts[0], strlen(texts[0]), markup, &ids, &n, &err) != OMNI_OK) {
        omni_tokenizer_close(t);
        return report(&err);
    }
    for (size_t i = 0; i < n; i++) {
        if (ids_only) {
            printf("%s%d", i ? " " : "", ids[i]);
            continue;
        }
        size_t size;
        const char *piece = omni_token_bytes(t, ids[i], &size);
        printf("%7d  ", ids[i]);
        print_piece(piece, size);
        putchar('\n');
    }
    if (ids_only) {
        putchar('\n');
    }
    omni_free(ids);
    omni_tokenizer_close(t);
    return 0;
}
