#include "cli/args.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WORD = 48, HELP_COLUMN = 28 };

/* Levenshtein distance, the classic dynamic programme over one row. */
static size_t edits(const char *a, const char *b) {
    size_t n = strlen(b), row[MAX_WORD + 1];
    for (size_t j = 0; j <= n; j++) {
        row[j] = j;
    }
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t replaced = diagonal + (a[i - 1] != b[j - 1]), other = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = replaced < other ? replaced : other;
        }
    }
    return row[n];
}

/* One begins with the other, by more than dashes and a letter or two: --temperature for --temp. */
static bool shortened(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b), both = n < m ? n : m;
    return both >= 5 && strncmp(a, b, both) == 0;
}

const char *args_nearest(const char *word, const char *const *candidates, size_t count) {
    const char *best = NULL;
    size_t best_edits = strlen(word) / 3 + 2;
    for (size_t i = 0; i < count && strlen(word) <= MAX_WORD; i++) {
        size_t e = strlen(candidates[i]) > MAX_WORD ? SIZE_MAX : shortened(word, candidates[i]) ? 1 : edits(word, candidates[i]);
        if (e < best_edits) {
            best = candidates[i];
            best_edits = e;
        }
    }
    return best;
}

static void print_help(const command *c) {
    printf("usage: omni %s%s%s [flags]\n%s\n\n", c->name, *c->arguments ? " " : "", c->arguments, c->summary);
    for (size_t i = 0; i < c->flag_count; i++) {
        const flag *f = &c->flags[i];
        char left[96];
        snprintf(left, sizeof left, "  %s%s%s%s%s", f->alias ? f->alias : "", f->alias ? ", " : "", f->name, f->metavar ? " " : "",
                 f->metavar ? f->metavar : "");
        if (strlen(left) >= HELP_COLUMN) {
            printf("%s\n%*s%s\n", left, HELP_COLUMN, "", f->help);
        } else {
            printf("%-*s%s\n", HELP_COLUMN, left, f->help);
        }
    }
    printf("%-*s%s\n", HELP_COLUMN, "  -h, --help", "this text");
    if (c->details) {
        printf("\n%s\n", c->details);
    }
}

static const flag *find_flag(const command *c, const char *word, size_t length) {
    for (size_t i = 0; i < c->flag_count; i++) {
        const flag *f = &c->flags[i];
        if ((strlen(f->name) == length && strncmp(f->name, word, length) == 0) ||
            (f->alias && strlen(f->alias) == length && strncmp(f->alias, word, length) == 0)) {
            return f;
        }
    }
    return NULL;
}

static int unknown_flag(const command *c, const char *word) {
    const char **names = calloc(c->flag_count + 1, sizeof *names);
    const char *near = NULL;
    if (names) {
        for (size_t i = 0; i < c->flag_count; i++) {
            names[i] = c->flags[i].name;
        }
        names[c->flag_count] = "--help";
        near = args_nearest(word, names, c->flag_count + 1);
    }
    if (near) {
        fprintf(stderr, "omni %s: unknown flag %s; did you mean %s?\n", c->name, word, near);
    } else {
        fprintf(stderr, "omni %s: unknown flag %s; see omni %s --help\n", c->name, word, c->name);
    }
    free(names);
    return 2;
}

/* Stores a flag's value; false after explaining what is wrong with it. */
static bool set_flag(const command *c, const flag *f, const char *text) {
    char *end = NULL;
    errno = 0;
    if (f->kind == FLAG_STRING) {
        *(const char **)f->value = text;
        return true;
    }
    if (f->kind == FLAG_ENTRY) {
        flag_list *list = f->value;
        flag_entry *larger = realloc(list->entries, (list->count + 1) * sizeof *larger);
        if (!larger) {
            fprintf(stderr, "omni %s: out of memory\n", c->name);
            return false;
        }
        list->entries = larger;
        list->entries[list->count++] = (flag_entry){f->name, text};
        return true;
    }
    if (f->kind == FLAG_INT) {
        long long v = strtoll(text, &end, 10);
        if (*text && !*end && errno == 0 && (double)v >= f->low && (double)v <= f->high) {
            *(int64_t *)f->value = v;
            return true;
        }
        fprintf(stderr, "omni %s: %s takes a whole number from %.0f to %.0f, not \"%s\"\n", c->name, f->name, f->low, f->high, text);
        return false;
    }
    double v = strtod(text, &end);
    if (*text && !*end && errno == 0 && v >= f->low && v <= f->high) {
        *(double *)f->value = v;
        return true;
    }
    fprintf(stderr, "omni %s: %s takes a number from %g to %g, not \"%s\"\n", c->name, f->name, f->low, f->high, text);
    return false;
}

int args_parse(const command *c, int argc, char **argv, const char **positional, size_t max_positional, size_t *positional_count) {
    size_t count = 0;
    bool only_positional = false;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (only_positional || word[0] != '-' || word[1] == 0) {
            if (count == max_positional) {
                fprintf(stderr, "omni %s: unexpected argument \"%s\"; see omni %s --help\n", c->name, word, c->name);
                return 2;
            }
            positional[count++] = word;
            continue;
        }
        if (strcmp(word, "--") == 0) {
            only_positional = true;
            continue;
        }
        if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            print_help(c);
            return 0;
        }
        const char *equals = word[1] == '-' ? strchr(word, '=') : NULL;
        const flag *f = find_flag(c, word, equals ? (size_t)(equals - word) : strlen(word));
        if (!f) {
            return unknown_flag(c, word);
        }
        if (f->kind == FLAG_SET) {
            if (equals) {
                fprintf(stderr, "omni %s: %s takes no value\n", c->name, f->name);
                return 2;
            }
            *(bool *)f->value = true;
            continue;
        }
        const char *text = equals ? equals + 1 : i + 1 < argc ? argv[++i] : NULL;
        if (!text) {
            fprintf(stderr, "omni %s: %s needs a value: %s %s\n", c->name, f->name, f->name, f->metavar);
            return 2;
        }
        if (!set_flag(c, f, text)) {
            return 2;
        }
    }
    *positional_count = count;
    return -1;
}
