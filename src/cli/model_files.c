#define _GNU_SOURCE
#include "cli/model_files.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/terminal_text.h"

enum { THINKER, MMPROJ, TALKER, PLACES };

static bool is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static char *join(const char *folder, const char *name) {
    char *path = NULL;
    size_t n = strlen(folder);
    return asprintf(&path, "%s%s%s", folder, n > 0 && folder[n - 1] == '/' ? "" : "/", name) < 0 ? NULL : path;
}

/* "NAME-00002-of-00003.gguf": a part that is not the first. */
static bool is_later_part(const char *name) {
    const size_t n = strlen(name), suffix = strlen("-00001-of-00002.gguf");
    const char *s = n < suffix ? "" : name + n - suffix;
    if (*s != '-' || strncmp(s + 6, "-of-", 4) != 0) {
        return false;
    }
    for (int i = 1; i < 6; i++) {
        if (!isdigit((unsigned char)s[i]) || !isdigit((unsigned char)s[i + 9])) {
            return false;
        }
    }
    return strncmp(s, "-00001", 6) != 0;
}

static int place_of(const char *name) {
    return strcasestr(name, "mmproj") ? MMPROJ : strcasestr(name, "talker") ? TALKER : THINKER;
}

static int is_candidate(const struct dirent *e) {
    size_t n = strlen(e->d_name);
    return e->d_name[0] != '.' && n > 5 && strcasecmp(e->d_name + n - 5, ".gguf") == 0 && !strcasestr(e->d_name, "imatrix") &&
           !is_later_part(e->d_name);
}

static int is_visible(const struct dirent *e) {
    return e->d_name[0] != '.';
}

static void free_list(struct dirent **list, int count) {
    for (int i = 0; i < count; i++) {
        free(list[i]);
    }
    free(list);
}

/* The snapshot of a Hugging Face cache's folder for one model: refs/main names it; without that, the only one there is. NULL: it is no such
 * folder, or which one is not clear. */
static char *snapshot(const char *folder) {
    char *snapshots = join(folder, "snapshots"), *ref = join(folder, "refs/main"), *found = NULL;
    if (snapshots && ref && is_folder(snapshots)) {
        char name[256] = "";
        FILE *f = fopen(ref, "re");
        if (f && fgets(name, sizeof name, f)) {
            name[strcspn(name, " \r\n")] = 0;
        }
        if (f) {
            fclose(f);
        }
        struct dirent **list = NULL;
        int count = scandir(snapshots, &list, is_visible, alphasort);
        if (*name && !strchr(name, '/') && *name != '.') {
            found = join(snapshots, name);
        } else if (count == 1) {
            found = join(snapshots, list[0]->d_name);
        }
        free_list(list, count);
    }
    free(snapshots);
    free(ref);
    return found;
}

static int several(const char *command, const char *folder, struct dirent **list, int count, int place) {
    static const char *const flags[] = {"--model", "--mmproj", "--talker"};
    char names[1024] = "";
    size_t used = 0;
    for (int i = 0; i < count && used < sizeof names; i++) {
        if (place_of(list[i]->d_name) == place) {
            used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", list[i]->d_name);
        }
    }
    print_error("omni %s: %s: which of %s? give one with %s%s\n", command, folder, names, flags[place],
                place == THINKER ? ", and the files that go with it with --mmproj and --talker" : "");
    return 2;
}

static int choose(const char *command, unsigned want, const char *folder, model_files *f) {
    const char **const places[] = {&f->model, &f->mmproj, &f->talker};
    const bool wanted[] = {true, (want & WANT_MMPROJ) && !f->mmproj, (want & WANT_TALKER) && !f->talker};
    struct dirent **list = NULL;
    int count = scandir(folder, &list, is_candidate, alphasort), status = -1;
    if (count < 0) {
        print_error("omni: %s: cannot read the folder: %s\n", folder, strerror(errno));
        return 1;
    }
    for (int place = 0; place < PLACES && status < 0; place++) {
        int found = -1, candidates = 0;
        for (int i = 0; i < count; i++) {
            if (place_of(list[i]->d_name) == place) {
                found = i;
                candidates++;
            }
        }
        if (!wanted[place] || (candidates == 0 && place != THINKER)) {
            continue;
        }
        if (candidates == 0) {
            char *config = join(folder, "config.json");
            struct stat st;
            const bool checkpoint = config && stat(config, &st) == 0;
            print_error("omni %s: %s: there is no model's .gguf file in this folder%s\n", command, folder,
                        checkpoint ? "; it is a checkpoint, of which omni convert makes them" : "");
            free(config);
            status = 2;
        } else if (candidates > 1) {
            status = several(command, folder, list, count, place);
        } else if (!(*places[place] = f->held[place] = join(folder, list[found]->d_name))) {
            print_error("omni %s: out of memory\n", command);
            status = 1;
        }
    }
    free_list(list, count);
    return status;
}

int model_files_find(const char *command, unsigned want, model_files *f) {
    if (!f->model) {
        print_error("omni %s: give the model with --model, its file or its folder, or name its folder in OMNI_MODEL; see omni %s --help\n", command,
                    command);
        return 2;
    }
    if (!is_folder(f->model)) {
        return -1;
    }
    char *inner = snapshot(f->model);
    int status = choose(command, want, inner ? inner : f->model, f);
    free(inner);
    return status;
}

void model_files_free(model_files *f) {
    for (int i = 0; i < PLACES; i++) {
        free(f->held[i]);
        f->held[i] = NULL;
    }
}
