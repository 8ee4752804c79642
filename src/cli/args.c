#include "cli/args.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/config.h"
#include "cli/help.h"
#include "cli/terminal_text.h"

enum { MAX_WORD = 48 };

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Distance of Damerau and Levenshtein (optimal string alignment), by dynamic programming over three rows. Both have MAX_WORD letters at most. */
static size_t edits(const char *a, const char *b) {
    size_t n = strlen(b), rows[3][MAX_WORD + 1], *before = rows[0], *above = rows[1], *row = rows[2];
    for (size_t j = 0; j <= n; j++) {
        above[j] = j;
    }
    for (size_t i = 1; a[i - 1]; i++) {
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            row[j] = least(least(row[j - 1], above[j]) + 1, above[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                row[j] = least(row[j], before[j - 2] + 1);
            }
        }
        size_t *spare = before;
        before = above;
        above = row;
        row = spare;
    }
    return above[n];
}

static size_t dashes(const char *s) {
    return strspn(s, "-/");
}

/* One begins with the other, by three letters or more: --temperature for --temp. */
static bool shortened(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b), both = least(n, m);
    return both >= dashes(a) + 3 && strncmp(a, b, both) == 0;
}

/* How far a word is from a candidate: one that begins with the other is as near as one edit, and among equals the edits decide. */
static size_t distance(const char *word, const char *candidate) {
    size_t e = strlen(candidate) > MAX_WORD ? MAX_WORD : edits(word, candidate);
    return (e > 1 && shortened(word, candidate) ? 1 : e) * (MAX_WORD + 1) + e;
}

const char *args_nearest(const char *word, const char *const *candidates, size_t count) {
    const char *best = NULL;
    size_t letters = strlen(word) - dashes(word), nearest = ((letters < 3 ? 1 : letters / 3) + 1) * (MAX_WORD + 1);
    for (size_t i = 0; i < count && letters > 0 && strlen(word) <= MAX_WORD; i++) {
        size_t d = distance(word, candidates[i]);
        if (d < nearest) {
            best = candidates[i];
            nearest = d;
        }
    }
    return best;
}

const flag *args_find(const command *c, const char *word, size_t length) {
    for (size_t i = 0; i < c->flag_count; i++) {
        const flag *f = &c->flags[i];
        if ((strlen(f->name) == length && strncmp(f->name, word, length) == 0) ||
            (f->alias && strlen(f->alias) == length && strncmp(f->alias, word, length) == 0)) {
            return f;
        }
    }
    return NULL;
}

bool args_is_path(const flag *f) {
    static const char *const endings[] = {"FILE", "DIR", "OUT"};
    for (size_t i = 0; f->metavar && i < sizeof endings / sizeof *endings; i++) {
        size_t n = strlen(f->metavar), m = strcspn(f->metavar, "."), k = strlen(endings[i]);
        n = least(n, m);
        if (strcmp(f->metavar, "F") == 0 || (n >= k && strncmp(f->metavar + n - k, endings[i], k) == 0)) {
            return true;
        }
    }
    return false;
}

const char *args_choices(const flag *f, char out[static MAX_CHOICES]) {
    if (!f->metavar || *f->metavar != '<' || !strchr(f->metavar, '|')) {
        return NULL;
    }
    snprintf(out, MAX_CHOICES, "%.*s", (int)strlen(f->metavar) - 2, f->metavar + 1);
    for (char *s = out; *s; s++) {
        *s = *s == '|' ? ' ' : *s;
    }
    return out;
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
        print_error("omni %s: unknown flag %s; did you mean %s?\n", c->name, word, near);
    } else {
        print_error("omni %s: unknown flag %s; see omni %s --help\n", c->name, word, c->name);
    }
    free(names);
    return 2;
}

static bool set_whole(const flag *f, const char *text, const char *where) {
    char *end = NULL;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    const bool whole = *text && !*end && errno == 0, endless = f->kind == FLAG_COUNT;
    if (whole && (((double)v >= f->low && (double)v <= f->high) || (endless && v == -1))) {
        *(int64_t *)f->value = v;
        return true;
    }
    print_error("%s: %s takes a whole number from %.0f to %.0f%s, not \"%s\"\n", where, f->name, f->low, f->high, endless ? ", or -1" : "", text);
    return false;
}

static bool set_switch(const flag *f, const char *text, const char *where) {
    static const char *const words[][2] = {{"false", "true"}, {"off", "on"}, {"no", "yes"}, {"0", "1"}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        for (int yes = 0; yes < 2; yes++) {
            if (strcmp(text, words[i][yes]) == 0) {
                *(bool *)f->value = yes;
                return true;
            }
        }
    }
    print_error("%s: %s takes true or false, not \"%s\"\n", where, f->name, text);
    return false;
}

bool args_set(const flag *f, const char *text, const char *where) {
    if (f->kind == FLAG_SET) {
        return set_switch(f, text, where);
    }
    if (f->kind == FLAG_STRING) {
        *(const char **)f->value = text;
        return true;
    }
    if (f->kind == FLAG_ENTRY) {
        flag_list *list = f->value;
        flag_entry *larger = realloc(list->entries, (list->count + 1) * sizeof *larger);
        if (!larger) {
            print_error("%s: out of memory\n", where);
            return false;
        }
        list->entries = larger;
        list->entries[list->count++] = (flag_entry){f->name, text};
        return true;
    }
    if (f->kind == FLAG_INT || f->kind == FLAG_COUNT) {
        return set_whole(f, text, where);
    }
    char *end = NULL;
    errno = 0;
    double v = strtod(text, &end);
    if (*text && !*end && errno == 0 && v >= f->low && v <= f->high) {
        *(double *)f->value = v;
        return true;
    }
    print_error("%s: %s takes a number from %g to %g, not \"%s\"\n", where, f->name, f->low, f->high, text);
    return false;
}

/* given: for each flag, whether it was. */
static int parse(const command *c, int argc, char **argv, const char **positional, size_t max_positional, size_t *count, bool *given) {
    bool only_positional = false;
    char where[64];
    snprintf(where, sizeof where, "omni %s", c->name);
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (only_positional || word[0] != '-' || word[1] == 0) {
            if (*count == max_positional) {
                print_error("omni %s: unexpected argument \"%s\"; see omni %s --help\n", c->name, word, c->name);
                return 2;
            }
            positional[(*count)++] = word;
            continue;
        }
        if (strcmp(word, "--") == 0) {
            only_positional = true;
            continue;
        }
        if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            help_print(c);
            return 0;
        }
        const char *equals = word[1] == '-' ? strchr(word, '=') : NULL;
        if (equals && strncmp(word, "--help=", 7) == 0) {
            return help_print_as(c, equals + 1, i + 1 < argc ? argv[i + 1] : NULL);
        }
        const flag *f = args_find(c, word, equals ? (size_t)(equals - word) : strlen(word));
        if (!f) {
            return unknown_flag(c, word);
        }
        given[f - c->flags] = true;
        if (f->kind == FLAG_SET) {
            if (equals) {
                print_error("omni %s: %s takes no value\n", c->name, f->name);
                return 2;
            }
            *(bool *)f->value = true;
            continue;
        }
        const char *text = equals ? equals + 1 : i + 1 < argc ? argv[++i] : NULL;
        if (!text) {
            print_error("omni %s: %s needs a value: %s %s\n", c->name, f->name, f->name, f->metavar);
            return 2;
        }
        if (!args_set(f, text, where)) {
            return 2;
        }
    }
    return -1;
}

int args_parse(const command *c, int argc, char **argv, const char **positional, size_t max_positional, size_t *positional_count) {
    bool *given = calloc(c->flag_count + 1, sizeof *given);
    *positional_count = 0;
    if (!given) {
        print_error("omni %s: out of memory\n", c->name);
        return 1;
    }
    int status = parse(c, argc, argv, positional, max_positional, positional_count, given);
    if (status < 0) {
        status = config_apply(c, given);
    }
    free(given);
    return status;
}
