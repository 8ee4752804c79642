/* omni tokenize: ids and pieces of a text, a line each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "cli/commands.h"
#include "cli/input.h"
#include "cli/model_files.h"
#include "cli/terminal_text.h"

/* A piece with whole characters as they are; controls and parts of characters (many tokens are those) as their bytes. */
static void print_piece(const char *bytes, size_t n) {
    putchar('"');
    for (size_t i = 0, length; i < n; i += length) {
        uint32_t c = 0;
        length = utf8_character(bytes + i, n - i, &c);
        if (c == '\n') {
            fputs("\\n", stdout);
        } else if (c == '"' || c == '\\') {
            printf("\\%c", (char)c);
        } else if (length > 0 && !obeyed_by_terminals(c)) {
            fwrite(bytes + i, 1, length, stdout);
        } else {
            length = length > 0 ? length : 1;
            for (size_t k = 0; k < length; k++) {
                printf("\\x%02x", (unsigned char)bytes[i + k]);
            }
        }
    }
    putchar('"');
}

static int tokenize(const char *model, const char *text, bool markup, bool ids_only) {
    omni_error err = {0};
    omni_tokenizer *t = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    if (omni_tokenizer_open(model, &t, &err) != OMNI_OK || omni_tokenize(t, text, strlen(text), markup, &ids, &n, &err) != OMNI_OK) {
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

int command_tokenize(int argc, char **argv) {
    const char *model = NULL, *file = NULL, *argument = NULL;
    bool markup = false, ids_only = false;
    const flag flags[] = {
        {"--model", "-m", FLAG_STRING, &model, "F", "thinker GGUF, or a folder with one (default: $OMNI_MODEL)", 0, 0},
        {"--file", "-f", FLAG_STRING, &file, "FILE", "the text's file, in place of TEXT; - reads standard input (default: none)", 0, 0},
        {"--markup", NULL, FLAG_SET, &markup, NULL, "recognise <|im_start|> and the like; without it they are plain text", 0, 0},
        {"--ids", NULL, FLAG_SET, &ids_only, NULL, "only the ids, on one line", 0, 0},
    };
    const command c = {.name = "tokenize",
                       .arguments = "TEXT",
                       .summary = "Prints the tokens of a text: id, then piece.",
                       .flags = flags,
                       .flag_count = sizeof flags / sizeof *flags};
    size_t count = 0;
    int status = args_parse(&c, argc, argv, &argument, 1, &count);
    if (status >= 0) {
        return status;
    }
    model_files files = {model, NULL, NULL, {0}};
    char *text = NULL;
    status = model_files_find("tokenize", 0, &files);
    if (status < 0 && (count == 1) == (file != NULL)) {
        print_error("omni tokenize: %s usage: omni tokenize --model F TEXT\n", file ? "a text, or its file with -f, not both;" : "which text?");
        status = 2;
    }
    if (status < 0) {
        text = file ? input_read_text(file) : NULL;
        status = file && !text ? 1 : tokenize(files.model, file ? text : argument, markup, ids_only);
    }
    free(text);
    model_files_free(&files);
    return status;
}
