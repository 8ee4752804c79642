#define _GNU_SOURCE
#include "cli/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/terminal_text.h"

enum { MAX_CONFIG = 1 << 20 }; /* bytes */

/* What values point into, until the program ends. */
static char *config_text;
static char *config_paths[64]; /* those that began with ~/ */

static char *config_path(void) {
    const char *base = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    char *path = NULL;
    int n = base && *base == '/' ? asprintf(&path, "%s/omni/config", base) : home && *home ? asprintf(&path, "%s/.config/omni/config", home) : -1;
    return n < 0 ? NULL : path;
}

static char *trimmed(char *s) {
    while (isspace((unsigned char)*s)) {
        s++;
    }
    size_t n = strlen(s);
    while (n > 0 && isspace((unsigned char)s[n - 1])) {
        s[--n] = 0;
    }
    return s;
}

/* The value of a path, where "~/" begins the home folder; NULL after reporting. */
static const char *expand(const char *value, const char *where) {
    const char *home = getenv("HOME");
    if (strncmp(value, "~/", 2) != 0 || !home) {
        return value;
    }
    for (size_t i = 0; i < sizeof config_paths / sizeof *config_paths; i++) {
        if (!config_paths[i]) {
            return asprintf(&config_paths[i], "%s/%s", home, value + 2) < 0 ? NULL : config_paths[i];
        }
    }
    print_error("%s: more paths than are taken\n", where);
    return NULL;
}

/* The flag that a key names, with dashes put before it. */
static const flag *find_key(const command *c, const char *key) {
    char name[64];
    snprintf(name, sizeof name, "--%s", key);
    return strlen(key) + 2 < sizeof name ? args_find(c, name, strlen(name)) : NULL;
}

static bool is_model_file(const flag *f) {
    return strcmp(f->name, "--model") == 0 || strcmp(f->name, "--mmproj") == 0 || strcmp(f->name, "--talker") == 0;
}

/* "key = value", cut at the "=". */
static int apply_line(const command *c, const bool *given, bool model_given, char *line, const char *where) {
    char *equals = strchr(line, '=');
    if (!equals) {
        print_error("%s: must be \"flag = value\" or \"[command]\", found \"%s\"\n", where, line);
        return 2;
    }
    *equals = 0;
    const char *key = trimmed(line), *value = trimmed(equals + 1);
    const flag *f = find_key(c, key);
    if (!f) {
        if (command_has_flag(key)) {
            return -1;
        }
        print_error("%s: no command has a flag --%s\n", where, key);
        return 2;
    }
    if (given[f - c->flags] || (is_model_file(f) && (model_given || c->no_default_model))) {
        return -1;
    }
    value = args_is_path(f) ? expand(value, where) : value;
    return value && args_set(f, value, where) ? -1 : 2;
}

static int apply_text(const command *c, const bool *given, bool model_given, const char *path, char *text) {
    bool ours = true;
    int number = 0;
    char *next = text;
    for (char *line; (line = strsep(&next, "\n"));) {
        char where[512];
        snprintf(where, sizeof where, "omni: %.480s:%d", path, ++number);
        line = trimmed(line);
        size_t n = strlen(line);
        if (n == 0 || *line == '#') {
            continue;
        }
        if (*line == '[' && line[n - 1] == ']') {
            line[n - 1] = 0;
            if (!command_exists(trimmed(line + 1))) {
                print_error("%s: there is no command \"%s\"\n", where, trimmed(line + 1));
                return 2;
            }
            ours = strcmp(trimmed(line + 1), c->name) == 0;
        } else if (ours) {
            int status = apply_line(c, given, model_given, line, where);
            if (status >= 0) {
                return status;
            }
        }
    }
    return -1;
}

static int apply_file(const command *c, const bool *given, bool model_given, const char *path) {
    FILE *f = fopen(path, "re");
    if (!f) {
        if (errno == ENOENT || errno == ENOTDIR) {
            return -1;
        }
        print_error("omni: %s: cannot open: %s\n", path, strerror(errno));
        return 2;
    }
    size_t n = 0;
    config_text = malloc(MAX_CONFIG + 1);
    const char *fault = !config_text ? "out of memory" : NULL;
    if (!fault) {
        n = fread(config_text, 1, MAX_CONFIG + 1, f);
        fault = ferror(f)                   ? strerror(errno)
                : n > MAX_CONFIG            ? "larger than 1 MiB"
                : memchr(config_text, 0, n) ? "not a text: there is a NUL byte in it"
                                            : NULL;
    }
    fclose(f);
    if (fault) {
        print_error("omni: %s: %s\n", path, fault);
        return 2;
    }
    config_text[n] = 0;
    const bool marked = strncmp(config_text, "\xEF\xBB\xBF", 3) == 0; /* a byte order mark */
    return apply_text(c, given, model_given, path, config_text + (marked ? 3 : 0));
}

/* OMNI_CTX_SIZE for --ctx-size. */
static int apply_environment(const command *c, bool *given) {
    for (size_t i = 0; i < c->flag_count; i++) {
        char name[72] = "OMNI_";
        size_t n = strlen(name);
        for (const char *s = c->flags[i].name + 2; *s && n < sizeof name - 1; s++) {
            name[n++] = (char)(*s == '-' ? '_' : toupper((unsigned char)*s));
        }
        name[n] = 0;
        const char *value = getenv(name);
        if (!given[i] && value && *value) {
            if (!args_set(&c->flags[i], value, name)) {
                return 2;
            }
            given[i] = true;
        }
    }
    return -1;
}

int config_apply(const command *c, bool *given) {
    if (c->environment && apply_environment(c, given) >= 0) {
        return 2;
    }
    const flag *model = args_find(c, "--model", strlen("--model"));
    const char *folder = getenv("OMNI_MODEL");
    bool model_given = model && given[model - c->flags];
    if (model && !model_given && !c->no_default_model && folder && *folder) {
        *(const char **)model->value = folder;
        model_given = true;
    }
    char *path = config_path();
    int status = path ? apply_file(c, given, model_given, path) : -1;
    free(path);
    return status;
}
