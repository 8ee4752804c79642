#include "cli/help.h"

#include <stdio.h>
#include <string.h>

#include "cli/terminal_text.h"
#include "omni.h"

enum { HELP_COLUMN = 28 };

void help_print(const command *c) {
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

/* ---- manual pages ---- */

/* Text for troff: a hyphen is a minus sign (it can be copied), a backslash itself, and no line begins with a control character. */
static void troff(const char *s, size_t n) {
    bool fresh = true;
    for (size_t i = 0; i < n; i++) {
        if (fresh && (s[i] == '.' || s[i] == '\'')) {
            fputs("\\&", stdout);
        }
        fresh = s[i] == '\n';
        if (s[i] == '-') {
            fputs("\\-", stdout);
        } else if (s[i] == '\\') {
            fputs("\\e", stdout);
        } else if (s[i] == '~') {
            fputs("\\(ti", stdout);
        } else if (s[i] == '^') {
            fputs("\\(ha", stdout);
        } else {
            putchar(s[i]);
        }
    }
}

static void troff_text(const char *s) {
    troff(s, strlen(s));
}

static void troff_title(const char *name) {
    printf(".\\\" Made by omni --help=man.\n.TH OMNI");
    for (const char *s = name; *s; s++) {
        putchar(*s >= 'a' && *s <= 'z' ? *s - 'a' + 'A' : *s);
    }
    printf(" 1 \"\" \"omni %s\" \"User Commands\"\n.SH NAME\nomni", omni_version());
    troff_text(name);
}

static void troff_flag(const flag *f) {
    printf(".TP\n");
    if (f->alias) {
        printf("\\fB");
        troff_text(f->alias);
        printf("\\fR, ");
    }
    printf("\\fB");
    troff_text(f->name);
    printf("\\fR");
    if (f->metavar) {
        printf(" \\fI");
        troff_text(f->metavar);
        printf("\\fR");
    }
    putchar('\n');
    troff_text(f->help);
    putchar('\n');
}

static void man_settings(void) {
    printf(".SH ENVIRONMENT\n.TP\n\\fBOMNI_MODEL\\fR\nWhat \\fB\\-\\-model\\fR is when it is not given: a folder or a file.\n"
           ".TP\n\\fBOMNI_CPU\\fR\nKernels for a lesser instruction set than the processor has, for comparisons.\n"
           ".SH FILES\n.TP\n\\fI$XDG_CONFIG_HOME/omni/config\\fR, \\fI\\(ti/.config/omni/config\\fR\n"
           "Defaults, a flag a line without its dashes: \"threads = 4\". Lines below \"[run]\" hold for that command alone. The command line and\n"
           "\\fBOMNI_MODEL\\fR come first.\n");
}

static int man(const command *c) {
    char name[64];
    snprintf(name, sizeof name, "-%s", c->name);
    troff_title(name);
    printf(" \\- ");
    troff_text(c->summary);
    printf("\n.SH SYNOPSIS\n\\fBomni %s\\fR", c->name);
    if (*c->arguments) {
        printf(" \\fI");
        troff_text(c->arguments);
        printf("\\fR");
    }
    printf(" [\\fIflags\\fR]\n");
    if (c->details) {
        printf(".SH DESCRIPTION\n");
        troff_text(c->details);
        putchar('\n');
    }
    printf(".SH OPTIONS\n");
    for (size_t i = 0; i < c->flag_count; i++) {
        troff_flag(&c->flags[i]);
    }
    troff_flag(&(flag){.name = "--help", .alias = "-h", .help = "The flags, as this page has them."});
    man_settings();
    printf(
        ".SH EXIT STATUS\n0: done; 1: it failed; 2: wrong usage; 128 and a signal's number: that signal stopped it.\n.SH SEE ALSO\n.BR omni (1)\n");
    return 0;
}

static int program_man(const command_name *commands, size_t count) {
    troff_title("");
    printf(" \\- Qwen3\\-Omni: text, images, sound and video in; text and speech out\n.SH SYNOPSIS\n\\fBomni\\fR \\fICOMMAND\\fR [\\fIflags\\fR]\n"
           ".SH COMMANDS\n");
    for (size_t i = 0; i < count; i++) {
        printf(".TP\n.BR omni\\-%s (1)\n", commands[i].name);
        troff_text(commands[i].summary);
        putchar('\n');
    }
    printf(".SH OPTIONS\n.TP\n\\fB\\-h\\fR, \\fB\\-\\-help\\fR\nThe commands.\n"
           ".TP\n\\fB\\-\\-help=\\fR\\fIFORM\\fR\nThis page (man), or a completion script (bash, zsh, fish). \\fBomni\\fR \\fICOMMAND\\fR "
           "\\fB\\-\\-help=man\\fR\n"
           "prints a command's page.\n.TP\n\\fB\\-\\-version\\fR\nThe version.\n");
    man_settings();
    return 0;
}

/* ---- completion ---- */

static void bash_names(const command *c, const char *what, bool (*takes)(const flag *f)) {
    printf(" %s='", what);
    for (size_t i = 0; i < c->flag_count; i++) {
        const flag *f = &c->flags[i];
        if (takes(f)) {
            printf("%s%s%s ", f->name, f->alias ? " " : "", f->alias ? f->alias : "");
        }
    }
    putchar('\'');
}

static bool is_any(const flag *f) {
    return true;
}

static bool is_free(const flag *f) {
    char list[MAX_CHOICES];
    return f->kind != FLAG_SET && !args_is_path(f) && !args_choices(f, list);
}

/* "run) flags='...' paths='...' free='...' choices='--cache-type-k:f32,f16 ' ;;": the names, those that take a path, those whose value cannot
 * be completed, and those with a list of values. */
static int bash(const command *c) {
    printf("    %s)", c->name);
    bash_names(c, "flags", is_any);
    bash_names(c, "paths", args_is_path);
    bash_names(c, "free", is_free);
    printf(" choices='");
    for (size_t i = 0; i < c->flag_count; i++) {
        const flag *f = &c->flags[i];
        const char *const names[] = {f->name, f->alias};
        char list[MAX_CHOICES];
        for (int k = 0; args_choices(f, list) && k < 2; k++) {
            if (names[k]) {
                printf("%s:", names[k]);
                for (const char *s = list; *s; s++) {
                    putchar(*s == ' ' ? ',' : *s);
                }
                putchar(' ');
            }
        }
    }
    printf("' ;;\n");
    return 0;
}

/* Within single quotes: one of its own closes them, and in zsh's specifications brackets and colons have a meaning. */
static void quoted(const char *s, const char *special) {
    for (; *s; s++) {
        if (*s == '\'') {
            fputs("'\\''", stdout);
        } else if (strchr(special, *s)) {
            printf("\\%c", *s);
        } else {
            putchar(*s);
        }
    }
}

static int zsh(const command *c) {
    printf("    %s) _arguments -s", c->name);
    for (size_t i = 0; i < c->flag_count; i++) {
        const flag *f = &c->flags[i];
        const bool again = f->kind == FLAG_ENTRY;
        char list[MAX_CHOICES];
        const char *const names[] = {f->name, f->alias};
        for (int k = 0; k < 2 && names[k]; k++) {
            printf(" \\\n      '%s%s[", again ? "*" : "", names[k]);
            quoted(f->help, "[]:\\");
            putchar(']');
            if (f->kind != FLAG_SET) {
                putchar(':');
                quoted(f->metavar, "[]:\\");
                putchar(':');
                if (args_choices(f, list)) {
                    printf("(%s)", list);
                } else if (args_is_path(f)) {
                    printf("_files");
                }
            }
            putchar('\'');
        }
    }
    printf(" \\\n      '*:file:_files' ;;\n");
    return 0;
}

static int fish(const command *c) {
    for (size_t i = 0; i < c->flag_count; i++) {
        const flag *f = &c->flags[i];
        printf("complete -c omni -n '__fish_seen_subcommand_from %s' -l %s", c->name, f->name + 2);
        if (f->alias) {
            printf(" -%c %s", strlen(f->alias) == 2 ? 's' : 'o', f->alias + 1);
        }
        if (f->kind != FLAG_SET) {
            printf(args_is_path(f) ? " -r -F" : " -x");
        }
        char list[MAX_CHOICES];
        if (args_choices(f, list)) {
            printf(" -a '%s'", list);
        }
        printf(" -d '");
        quoted(f->help, "\\");
        printf("'\n");
    }
    return 0;
}

static void bash_script(const command_name *commands, size_t count, int (*print_command)(const char *name, const char *form)) {
    printf("# Completion of omni for bash; made by omni --help=bash.\n"
           "_omni() {\n"
           "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} flags='' paths='' free='' choices='' commands='");
    for (size_t i = 0; i < count; i++) {
        printf("%s ", commands[i].name);
    }
    printf("' c\n"
           "  COMPREPLY=()\n"
           "  if [ \"$COMP_CWORD\" -le 1 ]; then COMPREPLY=($(compgen -W \"$commands help --help --version\" -- \"$cur\")); return; fi\n"
           "  if [ \"$cur\" = = ]; then cur=''; elif [ \"$prev\" = = ]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi\n"
           "  case ${COMP_WORDS[1]} in\n"
           "    help) COMPREPLY=($(compgen -W \"$commands\" -- \"$cur\")); return ;;\n");
    for (size_t i = 0; i < count; i++) {
        print_command(commands[i].name, "bash");
    }
    printf("    *) return ;;\n"
           "  esac\n"
           "  for c in $choices; do\n"
           "    if [ \"${c%%%%:*}\" = \"$prev\" ]; then c=${c#*:}; COMPREPLY=($(compgen -W \"${c//,/ }\" -- \"$cur\")); return; fi\n"
           "  done\n"
           "  case \" $free \" in *\" $prev \"*) return ;; esac\n"
           "  case \" $paths \" in *\" $prev \"*) ;; *)\n"
           "    case $cur in -*) COMPREPLY=($(compgen -W \"$flags--help\" -- \"$cur\")); return ;; esac ;;\n"
           "  esac\n"
           "  local IFS=$'\\n'\n"
           "  compopt -o filenames 2>/dev/null\n"
           "  COMPREPLY=($(compgen -f -- \"$cur\"))\n"
           "}\n"
           "complete -F _omni omni\n");
}

static void zsh_script(const command_name *commands, size_t count, int (*print_command)(const char *name, const char *form)) {
    printf("#compdef omni\n# Completion of omni for zsh; made by omni --help=zsh.\n_omni() {\n  local -a commands=(\n");
    for (size_t i = 0; i < count; i++) {
        printf("    '%s:", commands[i].name);
        quoted(commands[i].summary, ":\\");
        printf("'\n");
    }
    printf("    'help:the flags of a command'\n  )\n"
           "  if (( CURRENT == 2 )); then _describe command commands; return; fi\n"
           "  local name=$words[2]\n"
           "  shift words; (( CURRENT-- ))\n"
           "  case $name in\n");
    for (size_t i = 0; i < count; i++) {
        print_command(commands[i].name, "zsh");
    }
    printf("    help) _describe command commands ;;\n  esac\n}\n_omni \"$@\"\n");
}

static void fish_script(const command_name *commands, size_t count, int (*print_command)(const char *name, const char *form)) {
    printf("# Completion of omni for fish; made by omni --help=fish.\n"
           "complete -c omni -n __fish_use_subcommand -f -a help -d 'the flags of a command'\n");
    for (size_t i = 0; i < count; i++) {
        printf("complete -c omni -n __fish_use_subcommand -f -a %s -d '", commands[i].name);
        quoted(commands[i].summary, "\\");
        printf("'\n");
    }
    for (size_t i = 0; i < count; i++) {
        print_command(commands[i].name, "fish");
    }
}

static int unknown_form(const char *form) {
    print_error("omni: --help=%s: the forms are man, bash, zsh and fish\n", form);
    return 2;
}

int help_program_as(const char *form, const command_name *commands, size_t count, int (*print_command)(const char *name, const char *form)) {
    if (strcmp(form, "man") == 0) {
        return program_man(commands, count);
    }
    void (*const script)(const command_name *, size_t, int (*)(const char *, const char *)) = strcmp(form, "bash") == 0   ? bash_script
                                                                                              : strcmp(form, "zsh") == 0  ? zsh_script
                                                                                              : strcmp(form, "fish") == 0 ? fish_script
                                                                                                                          : NULL;
    if (!script) {
        return unknown_form(form);
    }
    script(commands, count, print_command);
    return 0;
}

int help_print_as(const command *c, const char *form, const char *name) {
    if (strcmp(form, "has") == 0 && name) {
        char word[64];
        snprintf(word, sizeof word, "--%s", name);
        return strlen(name) + 2 < sizeof word && args_find(c, word, strlen(word)) ? 0 : 1;
    }
    return strcmp(form, "man") == 0    ? man(c)
           : strcmp(form, "bash") == 0 ? bash(c)
           : strcmp(form, "zsh") == 0  ? zsh(c)
           : strcmp(form, "fish") == 0 ? fish(c)
                                       : unknown_form(form);
}
