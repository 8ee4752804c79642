#define _GNU_SOURCE
#include "server/multipart.h"

#include <string.h>
#include <strings.h>

#include "base/error.h"

/* ---- parameters: ; name=value; name="quoted value" ---- */

static const char *skip_spaces(const char *s, const char *end) {
    while (s < end && (*s == ' ' || *s == '\t')) {
        s++;
    }
    return s;
}

static bool is_token(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("!#$%&'*+-.^_`|~", c));
}

/* The characters of a value, one after the other; in a quoted one \" and \\ stand for one. NULL: the value has ended, or, with *good false, has no
 * closing quote. */
static const char *next_character(const char *s, const char *end, bool quoted, char *c, bool *good) {
    if (!quoted) {
        *c = s < end ? *s : 0;
        return s < end && *s != ';' && *s != ' ' && *s != '\t' ? s + 1 : NULL;
    }
    if (s == end || *s == '"') {
        *good = s < end;
        return NULL;
    }
    const bool escaped = *s == '\\' && end - s > 1 && (s[1] == '"' || s[1] == '\\');
    *c = s[escaped];
    return s + 1 + escaped;
}

/* Copies a value into room bytes, unless to is NULL. The place behind it; NULL: damaged or too long. */
static const char *read_value(const char *s, const char *end, char *to, size_t room) {
    const bool quoted = s < end && *s == '"';
    bool good = true;
    size_t n = 0;
    char c;
    s += quoted;
    for (const char *next; (next = next_character(s, end, quoted, &c, &good)); s = next) {
        if ((unsigned char)c < ' ' || c == 0x7f || (to && n + 1 >= room)) {
            return NULL;
        }
        if (to) {
            to[n++] = c;
        }
    }
    if (to) {
        to[n] = 0;
    }
    return good ? s + quoted : NULL;
}

/* The parameter called name, of those that follow a header's value. False: the parameters are damaged, or this one is longer than room. *found: it is
 * there. */
static bool parameter(const char *s, const char *end, const char *name, char *to, size_t room, bool *found) {
    *found = false;
    for (;;) {
        s = skip_spaces(s, end);
        if (s == end) {
            return true;
        }
        if (*s != ';') {
            return false;
        }
        const char *key = skip_spaces(s + 1, end), *stop = key;
        while (stop < end && is_token(*stop)) {
            stop++;
        }
        if (stop == key && stop == end) {
            return true; /* a semicolon at the end */
        }
        if (stop == key || stop == end || *stop != '=') {
            return false;
        }
        const bool this = (size_t)(stop - key) == strlen(name) && strncasecmp(key, name, strlen(name)) == 0;
        if (this && *found) {
            return false;
        }
        s = read_value(stop + 1, end, this ? to : NULL, room);
        if (!s) {
            return false;
        }
        *found |= this;
    }
}

/* %22 of names, in place. False: there is an end of line, %0D or %0A, which no name has. */
static bool unescape(char *text) {
    char *to = text;
    for (const char *s = text; *s; s++) {
        const bool quote = strncmp(s, "%22", 3) == 0;
        if (strncasecmp(s, "%0d", 3) == 0 || strncasecmp(s, "%0a", 3) == 0) {
            return false;
        }
        *to++ = quote ? '"' : *s;
        s += quote ? 2 : 0;
    }
    *to = 0;
    return true;
}

/* ---- boundaries ---- */

/* Behind a boundary: the end of its line, or "--" for the last one. NULL: it is no boundary, but the beginning of a longer word. */
static const char *end_of_boundary(const multipart *m, const char *s, bool *last) {
    *last = m->end - s >= 2 && s[0] == '-' && s[1] == '-';
    if (*last) {
        return s + 2;
    }
    s = skip_spaces(s, m->end);
    return m->end - s >= 2 && s[0] == '\r' && s[1] == '\n' ? s + 2 : NULL;
}

/* The next boundary from `from` on: what stands before it ends at *before, what follows begins at the value. NULL: there is none. */
static const char *find_boundary(const multipart *m, const char *from, const char **before, bool *last) {
    const char *s = from;
    while ((s = memmem(s, (size_t)(m->end - s), m->delimiter, m->delimiter_size))) {
        const char *behind = end_of_boundary(m, s + m->delimiter_size, last);
        if (behind) {
            *before = s;
            return behind;
        }
        s += 2; /* the next one may begin with the line's end that this lacks */
    }
    return NULL;
}

omni_status multipart_open(multipart *m, const char *content_type, const void *body, size_t size, omni_error *err) {
    static const char kind[] = "multipart/form-data";
    const char *end = content_type + strlen(content_type), *at = body, *before;
    bool found = false;
    *m = (multipart){.at = at, .end = at + size, .delimiter = "\r\n--"};
    if (strncasecmp(content_type, kind, sizeof kind - 1) != 0 ||
        !parameter(content_type + sizeof kind - 1, end, "boundary", m->delimiter + 4, MULTIPART_BOUNDARY + 1, &found) || !found || !m->delimiter[4]) {
        return fail(err, OMNI_ERR_FORMAT, "the body must be %s, with a boundary of 1 to %d characters in its Content-Type", kind, MULTIPART_BOUNDARY);
    }
    m->delimiter_size = strlen(m->delimiter);
    /* The first boundary needs no end of line before it. */
    const bool first = size >= m->delimiter_size - 2 && memcmp(at, m->delimiter + 2, m->delimiter_size - 2) == 0;
    const char *behind = first ? end_of_boundary(m, at + m->delimiter_size - 2, &m->ended) : NULL;
    behind = behind || size == 0 ? behind : find_boundary(m, at, &before, &m->ended);
    if (!behind) {
        return fail(err, OMNI_ERR_FORMAT, "the body does not hold the boundary that its Content-Type names");
    }
    m->at = behind;
    return OMNI_OK;
}

/* ---- parts ---- */

static bool has_name(const char *line, const char *end, const char *name) {
    const size_t n = strlen(name);
    return (size_t)(end - line) > n && strncasecmp(line, name, n) == 0 && line[n] == ':';
}

static omni_status read_disposition(const multipart *m, const char *s, const char *end, multipart_part *part, omni_error *err) {
    static const char kind[] = "form-data";
    bool named, starred;
    s = skip_spaces(s, end);
    if ((size_t)(end - s) < sizeof kind - 1 || strncasecmp(s, kind, sizeof kind - 1) != 0) {
        return fail(err, OMNI_ERR_FORMAT, "part %d of the body: its Content-Disposition must be form-data", m->parts);
    }
    s += sizeof kind - 1;
    if (!parameter(s, end, "name", part->name, sizeof part->name, &named) || !named ||
        !parameter(s, end, "filename", part->filename, sizeof part->filename, &part->is_file) || !parameter(s, end, "filename*", NULL, 0, &starred)) {
        return fail(err, OMNI_ERR_FORMAT, "part %d of the body: its Content-Disposition has no readable name of up to %d bytes", m->parts,
                    MULTIPART_NAME - 1);
    }
    part->is_file |= starred; /* older clients write names beyond ASCII so, against RFC 7578; what it says is not needed */
    if (!unescape(part->name) || !unescape(part->filename)) {
        return fail(err, OMNI_ERR_FORMAT, "part %d of the body: a name has an end of line in it", m->parts);
    }
    return OMNI_OK;
}

static omni_status read_line(const multipart *m, const char *line, const char *end, multipart_part *part, bool *named, omni_error *err) {
    const char *colon = memchr(line, ':', (size_t)(end - line));
    if (!colon || colon == line || memchr(line, 0, (size_t)(end - line)) || memchr(line, '\n', (size_t)(end - line)) ||
        memchr(line, '\r', (size_t)(end - line))) {
        return fail(err, OMNI_ERR_FORMAT, "part %d of the body: a header line is not \"name: value\"", m->parts);
    }
    if (has_name(line, end, "Content-Disposition")) {
        if (*named) {
            return fail(err, OMNI_ERR_FORMAT, "part %d of the body has two Content-Dispositions", m->parts);
        }
        *named = true;
        return read_disposition(m, colon + 1, end, part, err);
    }
    if (has_name(line, end, "Content-Transfer-Encoding")) {
        const char *value = skip_spaces(colon + 1, end);
        const int n = (int)(end - value);
        if (!(n == 4 && strncasecmp(value, "7bit", 4) == 0) && !(n == 4 && strncasecmp(value, "8bit", 4) == 0) &&
            !(n == 6 && strncasecmp(value, "binary", 6) == 0)) {
            return fail(err, OMNI_ERR_UNSUPPORTED, "part %d of the body: Content-Transfer-Encoding must be binary (RFC 7578)", m->parts);
        }
    }
    return OMNI_OK;
}

/* The header lines up to the empty one, behind which *data is. */
static omni_status read_head(const multipart *m, multipart_part *part, const char **data, omni_error *err) {
    const size_t left = (size_t)(m->end - m->at), most = left < MULTIPART_HEAD ? left : MULTIPART_HEAD;
    bool named = false;
    for (const char *line = m->at;;) {
        const char *end = memmem(line, most - (size_t)(line - m->at), "\r\n", 2);
        if (!end) {
            return left > MULTIPART_HEAD
                       ? fail(err, OMNI_ERR_LIMIT, "part %d of the body has more than %d bytes of header lines", m->parts, MULTIPART_HEAD)
                       : fail(err, OMNI_ERR_FORMAT, "part %d of the body ends within its header lines", m->parts);
        }
        if (end == line) {
            *data = end + 2;
            return named ? OMNI_OK : fail(err, OMNI_ERR_FORMAT, "part %d of the body has no Content-Disposition", m->parts);
        }
        TRY(read_line(m, line, end, part, &named, err));
        line = end + 2;
    }
}

omni_status multipart_next(multipart *m, multipart_part *part, bool *got, omni_error *err) {
    *got = false;
    if (m->ended) {
        return OMNI_OK;
    }
    if (++m->parts > MULTIPART_PARTS) {
        return fail(err, OMNI_ERR_LIMIT, "the body has more than %d parts", MULTIPART_PARTS);
    }
    *part = (multipart_part){0};
    TRY(read_head(m, part, &part->data, err));
    const char *before;
    /* A part without content: its boundary's end of line is that of the empty line. */
    const char *behind = find_boundary(m, part->data - 2, &before, &m->ended);
    if (!behind) {
        return fail(err, OMNI_ERR_FORMAT, "the body ends before part %d (\"%s\") does: the last boundary is missing", m->parts, part->name);
    }
    part->size = before > part->data ? (size_t)(before - part->data) : 0;
    m->at = behind;
    *got = true;
    return OMNI_OK;
}
